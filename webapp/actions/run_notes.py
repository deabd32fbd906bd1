"""What people say of a run: its name, its notes, its tags, its star."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from webapp.store.database import locked
from webapp.store.models import Run, RunNote, RunTag

from .errors import BodyInvalid, Conflict, NotFound
from .run_requests import printable

NAME_MOST, NOTES_MOST, TAG_MOST, TAGS_MOST = 200, 10_000, 40, 20  # characters; tags


class RunEdit(BaseModel, extra="forbid"):
    """What is not named stays as it is."""

    name: str | None = Field(None, description=f"1 to {NAME_MOST} characters.")
    notes: str | None = Field(None, description=f"Markdown, at most {NOTES_MOST:,} characters; without HTML.")
    notes_before: str | None = Field(
        None,
        description="The notes as they were read; where they are others by now, the answer is 409 and nothing changes.",
    )
    tags: list[str] | None = Field(
        None,
        description=f"All that it has from now on: at most {TAGS_MOST}, of {TAG_MOST} characters each, without commas; "
        "in lower case.",
    )
    starred: bool | None = None


def read_edit(form: Mapping[str, str]) -> RunEdit:
    """What a form of the run's page says. Raises BodyInvalid."""
    unknown = set(form) - {*RunEdit.model_fields, "csrf_token"}
    if unknown:
        raise BodyInvalid(f"{min(unknown)[:40]!r} of a run cannot be changed.")
    return RunEdit(
        name=form.get("name"),
        notes=form.get("notes"),
        notes_before=form.get("notes_before"),
        tags=form["tags"].split(",") if "tags" in form else None,
        starred=form["starred"] == "1" if "starred" in form else None,
    )


def edit_run(session: Session, run: Run, edit: RunEdit) -> None:
    """Of edits at the same time the last one stays, but of notes where it knew those before.

    Raises BodyInvalid with the field and what it may be; Conflict for notes that were changed meanwhile; NotFound.
    """
    if locked(session, run) is None:
        raise NotFound("The run has just been deleted.")
    if edit.name is not None:
        run.name = _name(edit.name)
    if edit.notes is not None:
        _require_unchanged(run, edit)
        _write_note(run, edit.notes)
    if edit.tags is not None:
        keep_tags(run, edit.tags)
    if edit.starred is not None:
        run.starred = edit.starred
    session.commit()


def keep_tags(run: Run, tags: Iterable[str]) -> None:
    """The run has these tags and no others. Raises BodyInvalid."""
    wanted = clean_tags(tags)
    if len(wanted) > TAGS_MOST:
        raise BodyInvalid(f"A run has at most {TAGS_MOST} tags; these are {len(wanted)}. Remove some.", "tags")
    run.tag_rows = [row for row in run.tag_rows if row.tag in wanted]
    run.tag_rows += [RunTag(tag=tag) for tag in wanted if tag not in run.tags]


def clean_tags(tags: Iterable[str]) -> list[str]:
    """Each once, in lower case, those that are empty left out. Raises BodyInvalid."""
    found = []
    for given in tags:
        tag = " ".join(printable(given.lower()).split())
        if len(tag) > TAG_MOST:
            raise BodyInvalid(f"The tag {tag[:20]!r}… has {len(tag)} characters; at most {TAG_MOST} may be.", "tags")
        if "," in tag:
            raise BodyInvalid(f"The tag {tag!r} has a comma, which stands between tags. Make it two.", "tags")
        if tag and tag not in found:
            found.append(tag)
    return sorted(found)


def _name(given: str) -> str:
    name = printable(given)
    if not name:
        raise BodyInvalid("A run has a name. Give it at least one character that can be seen.", "name")
    if len(name) > NAME_MOST:
        raise BodyInvalid(f"The name has {len(name)} characters; at most {NAME_MOST} may be.", "name")
    return name


def _require_unchanged(run: Run, edit: RunEdit) -> None:
    """Raises Conflict."""
    now = _note_text(run.note.text) if run.note else ""
    if edit.notes_before is not None and now not in (_note_text(edit.notes_before), _note_text(edit.notes or "")):
        raise Conflict(
            "The notes were changed meanwhile, in another tab or by somebody else. What they say now is kept; to write "
            "yours in its place, save them again.",
            "notes",
        )


def _note_text(given: str) -> str:
    return given.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n").strip()  # browsers send others back


def _write_note(run: Run, given: str) -> None:
    text = _note_text(given)
    if len(text) > NOTES_MOST:
        raise BodyInvalid(f"The notes have {len(text):,} characters; at most {NOTES_MOST:,} may be.", "notes")
    if not text:
        run.note = None
    elif run.note is None:
        run.note = RunNote(text=text)
    else:
        run.note.text = text
