"""What every algorithm must hold to, whoever wrote it."""

import inspect

import pytest
import torch

from valuedrift import plan, registry, train
from valuedrift.train import collation

NAMES = [name for name in registry.names("algorithm") if name != "trl"]
"""TRL's trainers bring their own loss: tests/train/test_trl_stage.py holds them to what ours do."""


def batch_of(data_format, n=3):
    """Return a batch of records of unequal length, and log-probs that carry gradient."""
    width = {"examples": 1, "prompts": 1, "pairs": 2}[data_format]
    rows = [collation.Row(torch.arange(4 + index).numpy(), 2) for index in range(n * width)]
    batch = collation.collate([(tuple(rows[start : start + width]), {}) for start in range(0, len(rows), width)])
    flat = -torch.rand(batch["answer_mask_RT"].shape, generator=torch.Generator().manual_seed(0)) - 0.1
    return batch, flat.requires_grad_()


def view(algorithm, seen_RT):
    """Return what the loop hands over: log-probs, or a score per row where the algorithm asks for that."""
    return seen_RT.sum(1) if "score" in algorithm.needs else seen_RT


def rollouts(algorithm, batch, seen_RT):
    """Return what the loop adds for `prepare`, and for `loss`, where the rows are rollouts."""
    if "rollouts" not in algorithm.needs:
        return {}, {}
    n, old_RT = len(seen_RT), seen_RT.detach()
    sampled = {"old_logps_RT": old_RT, "old_values_RT": old_RT, "scores_R": torch.arange(n) + 1.0, "ended_R": torch.arange(n) > 0}
    return sampled | {"before": {}}, {"values_RT": old_RT, "entropy_RT": -old_RT}


def over_step(algorithm, batch, logps_RT):
    """Return what the loop adds to each batch of a step: the means of `kl_estimate`, if the algorithm needs it."""
    if "kl_batch" not in algorithm.needs:
        return {}
    vectors = algorithm.kl_estimate(batch, logps_RT.detach())
    assert all(values.ndim == 1 for values in vectors.values())
    return {name: values.mean() for name, values in vectors.items()}


def test_the_folder_is_the_list():
    assert {"sft", "dpo", "simpo", "ipo", "orpo", "kto", "reward", "ppo"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_declares_what_it_is(name):
    algorithm = registry.find("algorithm", name)
    assert issubclass(algorithm.Settings, plan.Settings)
    assert algorithm.data_format in ("examples", "pairs", "prompts")
    assert algorithm.loss_reduction in ("tokens", "records")
    assert isinstance(algorithm.needs, frozenset)
    assert algorithm.needs <= {"reference", "kl_batch", "score", "rollouts"}
    assert issubclass(algorithm.Settings, train.Rollout) == ("rollouts" in algorithm.needs)
    assert ("kl_estimate" in vars(algorithm)) == ("kl_batch" in algorithm.needs)
    assert not set(algorithm.Settings.model_fields) & set(plan.Stage.model_fields), "a setting hides one of the stage's"
    assert algorithm(algorithm.Settings()).settings == algorithm.Settings()


@pytest.mark.parametrize("name", NAMES)
def test_is_documented(name):
    algorithm = registry.find("algorithm", name)
    module = inspect.getmodule(algorithm)
    formulas = [value for key, value in vars(module).items() if key.endswith("_loss")]
    assert formulas, "the formula is a pure function of the module, named NAME_loss"
    further = [algorithm.kl_estimate] if "kl_batch" in algorithm.needs else []
    for thing in (module, algorithm, algorithm.prepare, algorithm.loss, *further, *formulas):
        assert thing.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_finite_has_gradient_on_answers_alone_and_one_entry_per_unit(name):
    algorithm = registry.find("algorithm", name)
    algorithm = algorithm(algorithm.Settings())
    batch, logps_RT = batch_of(algorithm.data_format)
    mask_RT = batch["answer_mask_RT"]
    seen = logps_RT * mask_RT
    sampled, now = rollouts(algorithm, batch, seen)
    kept = {key: values.detach() - 0.1 for key, values in algorithm.prepare(batch | sampled, view(algorithm, seen)).items()}
    shapes = [(batch["n_records"],), mask_RT.shape] if sampled else [(batch["n_records"],)]
    assert all(values.shape in shapes for values in kept.values())
    assert bool(kept) == bool({"reference", "rollouts"} & algorithm.needs)
    losses, metrics = algorithm.loss(batch | kept | now | over_step(algorithm, batch | kept, seen), view(algorithm, seen))
    n_units = batch["n_records"] if algorithm.loss_reduction == "records" else int(mask_RT.sum())
    assert losses.shape == (n_units,)
    assert all(values.ndim == 1 for values in metrics.values())
    assert losses.isfinite().all()
    losses.mean().backward()
    assert (logps_RT.grad[mask_RT] != 0).all()
    assert (logps_RT.grad[~mask_RT] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_likelier_wanted_answer_lowers_the_loss(name):
    algorithm = registry.find("algorithm", name)
    if "rollouts" in algorithm.needs:
        pytest.skip("which of its own answers are wanted is the reward model's to say")
    algorithm = algorithm(algorithm.Settings())
    batch, logps_RT = batch_of(algorithm.data_format)
    seen = (logps_RT * batch["answer_mask_RT"]).detach()
    kept = algorithm.prepare(batch, view(algorithm, seen))
    known = batch | kept | over_step(algorithm, batch | kept, seen)
    better = seen.clone()
    better[: batch["n_records"]] *= 0.5
    losses = [algorithm.loss(known, view(algorithm, logps_RT))[0].mean() for logps_RT in (better, seen)]
    assert losses[0] < losses[1]
