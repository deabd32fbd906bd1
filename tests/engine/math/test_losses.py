"""The losses are those of their papers, computed in the plainest way on small tensors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.engine.math import losses


def softened(student, teacher, temperature, reverse=False, skew=0.0):
    """Hinton et al. and Ko et al., written out: per row the sum over classes, the mean over rows, times T²."""
    rows = []
    for s, t in zip(student.flatten(0, -2), teacher.flatten(0, -2), strict=True):
        p, q = torch.softmax(t / temperature, -1), torch.softmax(s / temperature, -1)
        first, second = (q, p) if reverse else (p, q)
        rows.append((first * (first / (skew * first + (1 - skew) * second)).log()).sum())
    return torch.stack(rows).mean() * temperature**2


def pair(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator), 2 * torch.randn(*shape, generator=generator)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 999),
    st.sampled_from([(1, 1), (6, 8), (2, 5, 7), (300, 3)]),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.7]),
)
def test_soft_targets_and_their_gradient_are_the_papers(seed, shape, temperature, reverse, skew):
    student, teacher = pair(*shape, seed=seed)
    ours, plain = student.clone().requires_grad_(), student.double().requires_grad_()
    loss = losses.soft_targets(ours, teacher, temperature, reverse, skew)
    expected = softened(plain, teacher.double(), temperature, reverse, skew)
    (3 * loss).backward()
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert torch.allclose(ours.grad, plain.grad.float(), atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_less_skew_the_nearer_to_the_plain_divergence_from_below(reverse):
    student, teacher = pair(6, 8)
    plain = losses.soft_targets(student, teacher, reverse=reverse)
    found = [losses.soft_targets(student, teacher, reverse=reverse, skew=skew) for skew in (0.5, 0.1, 1e-6)]
    assert found[0] < found[1] < plain
    assert found[2].item() == pytest.approx(plain.item(), rel=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("skew", [0.0, 0.1])
def test_answers_that_are_certain_and_opposed_have_a_finite_loss_and_gradient(reverse, skew):
    """Of 1e-400 and less there is no float: the logarithms are what is computed with."""
    student = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    loss = losses.soft_targets(student, -student.detach(), 1.0, reverse, skew)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


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
