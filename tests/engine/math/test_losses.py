"""The losses are those of their papers, computed in the plainest way on small tensors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.engine.math import losses


def softened(student, teacher, temperature):
    """Hinton et al., written out: per row the sum over classes, the mean over rows, times T²."""
    rows = []
    for s, t in zip(student.flatten(0, -2), teacher.flatten(0, -2), strict=True):
        p, q = torch.softmax(t / temperature, -1), torch.softmax(s / temperature, -1)
        rows.append((p * (p / q).log()).sum())
    return torch.stack(rows).mean() * temperature**2


def pair(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator), 2 * torch.randn(*shape, generator=generator)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.sampled_from([(1, 1), (6, 8), (2, 5, 7), (300, 3)]), st.sampled_from([0.5, 1.0, 4.0]))
def test_soft_targets_and_their_gradient_are_the_papers(seed, shape, temperature):
    student, teacher = pair(*shape, seed=seed)
    ours, plain = student.clone().requires_grad_(), student.double().requires_grad_()
    loss, expected = losses.soft_targets(ours, teacher, temperature), softened(plain, teacher.double(), temperature)
    (3 * loss).backward()
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert torch.allclose(ours.grad, plain.grad.float(), atol=1e-6)


def test_soft_targets_count_tokens_once_each():
    """The mean is over tokens: twice the tokens are not twice the loss."""
    student, teacher = pair(2, 3, 11)
    twice = losses.soft_targets(student.repeat(1, 2, 1), teacher.repeat(1, 2, 1))
    assert twice.item() == pytest.approx(losses.soft_targets(student, teacher).item(), rel=1e-5)


def test_a_student_that_answers_alike_has_nothing_to_learn():
    logits = torch.randn(4, 9).requires_grad_()
    loss = losses.soft_targets(logits, logits.detach(), 2.0)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_the_gradient_keeps_the_dtype_of_the_logits():
    student, teacher = (side.bfloat16() for side in pair(5, 6))
    student.requires_grad_()
    losses.soft_targets(student, teacher, 2.0).backward()
    assert student.grad.dtype == torch.bfloat16


def test_a_position_is_judged_on_the_next_token():
    tokens = torch.tensor([[2, 0, 1]])
    logits = torch.full((1, 3, 4), -50.0)
    logits[0, 0, 0] = logits[0, 1, 1] = 50.0  # what stands at the last position is nobody's business
    assert losses.next_tokens(logits, tokens).item() == pytest.approx(0, abs=1e-6)


def test_distances_are_free_of_scale_and_zero_between_equals():
    student, teacher = pair(6, 8)
    assert losses.relative_squares(5 * student, 5 * teacher) == pytest.approx(
        losses.relative_squares(student, teacher).item(), rel=1e-5
    )
    assert losses.cosine_distance(3 * teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert losses.cosine_distance(-teacher, teacher).item() == pytest.approx(2, abs=1e-6)
    zeros = torch.zeros(6, 8)
    for distance in (losses.relative_squares, losses.cosine_distance):
        assert torch.isfinite(distance(zeros, zeros))


def test_attention_divergence_is_zero_between_equals_and_bears_masked_keys():
    maps = torch.softmax(torch.randn(4, 6), -1)
    maps[:, 4:] = 0
    maps = maps / maps.sum(-1, keepdim=True)
    assert losses.attention_divergence(maps, maps).item() == pytest.approx(0, abs=1e-6)
    other = maps.roll(1, 0)
    assert losses.attention_divergence(other, maps).item() > 0
