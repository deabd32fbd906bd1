from datetime import UTC, datetime, timedelta

import pytest

from webapp.web.display import count_text, duration_text, format_title, icon, percent, short_text, when_text

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.44, "0.4 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (75, "1 min 15 s"),
        (3600, "1 h 0 min"),
        (4000, "1 h 6 min"),
    ],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(seconds=5), "just now"),
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(hours=3), "3 h ago"),
        (timedelta(days=3), "18 Nov 2026"),
    ],
)
def test_moments(ago, text):
    assert when_text(NOW - ago, NOW) == text
    assert when_text((NOW - ago).replace(tzinfo=None), NOW) == text  # SQLite forgets the zone; it is UTC


def test_numbers():
    assert count_text(1234567) == "1,234,567"
    assert [short_text(n) for n in (9999, 134515008, 7_000_000_000)] == ["9,999", "134.5 M", "7.0 B"]
    assert percent(0.968) == "96.8\N{NO-BREAK SPACE}%"


def test_an_icon_is_drawn_from_the_installed_package_and_hidden_from_readers():
    drawn = icon("plus-lg")
    assert "<path" in drawn
    assert 'aria-hidden="true"' in drawn
    with pytest.raises(KeyError):
        icon("no-such-icon")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("huggingface", "Hugging Face folder"),
        ("compressed_tensors", "Transformers folder"),
        ("companion", "Goes with the weights"),
        ("one of a newer version", "one of a newer version"),
    ],
)
def test_formats_are_shown_by_their_titles(name, title):
    assert format_title(name) == title
