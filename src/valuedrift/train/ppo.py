"""Proximal policy optimisation against a reward model, with a penalty for leaving the starting weights.

TRL removed its PPO trainer. If papers leave a choice open, we follow OpenAI's `lm-human-preferences` (Ziegler et al. 2019), as documented
in "The N Implementation Details of RLHF with PPO" (Huang, Liu and von Werra 2023; below: Details) and in its sequel on summarisation
(Huang et al. 2024, arXiv 2403.17031; below: N+). The docstrings name each choice. The loop's choices are:

* The value head is a linear layer on the policy's last hidden state and starts at zero (Ziegler et al. 2019; Details). Stiennon et al.
  (2020) and N+ use a second model, at twice the memory.
* Dropout is off (Details), so that the ratio of a step's first pass is one.
* The logits are divided by the sampling temperature wherever log-probs are computed (Details).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from . import BaseAlgorithm, Batch, Rollout


def kl_rewards(scores_R: Tensor, logps_RT: Tensor, reference_RT: Tensor, mask_RT: Tensor, beta: float | Tensor) -> Tensor:
    """Return -beta * (log π - log π_ref) at each answer token, plus the answer's score at its last one (Stiennon et al. 2020, section 3.4).

    The expected sum of the first term is -beta * KL(π, π_ref) of a whole answer.
    """
    last_R = (mask_RT * torch.arange(mask_RT.shape[1], device=mask_RT.device)).argmax(1)
    rewards_RT = -beta * (logps_RT - reference_RT) * mask_RT
    return rewards_RT.scatter_add(1, last_R[:, None], scores_R[:, None].to(rewards_RT.dtype))


def whiten(values_RT: Tensor, mask_RT: Tensor, shift_mean: bool = True) -> Tensor:
    """Return the values with standard deviation 1 over the mask, and with mean 0 or (without `shift_mean`) their own; 0 elsewhere.

    The variance is that of the population, without Bessel's correction (Details).
    """
    n = mask_RT.sum()
    mean = (values_RT * mask_RT).sum() / n
    variance = ((values_RT - mean) ** 2 * mask_RT).sum() / n
    white_RT = (values_RT - mean) * torch.rsqrt(variance + 1e-8)
    return (white_RT if shift_mean else white_RT + mean) * mask_RT


def gae(rewards_RT: Tensor, values_RT: Tensor, mask_RT: Tensor, gamma: float, lam: float) -> Tensor:
    """Return the advantages A_t = sum over l of (gamma * lam)^l * delta_(t+l), 0 outside the mask (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma * V_(t+1) - V_t. After an answer's last token the value is 0, even if it was cut off (Ziegler et al. 2019).
    """
    advantages_RT = torch.zeros_like(rewards_RT)
    later_R = torch.zeros_like(rewards_RT[:, 0])
    next_value_R = torch.zeros_like(later_R)
    for t in reversed(range(rewards_RT.shape[1])):
        delta_R = rewards_RT[:, t] + gamma * next_value_R - values_RT[:, t]
        later_R = (delta_R + gamma * lam * later_R) * mask_RT[:, t]
        next_value_R = values_RT[:, t] * mask_RT[:, t]
        advantages_RT[:, t] = later_R
    return advantages_RT


def ppo_loss(logps_N: Tensor, old_logps_N: Tensor, advantages_N: Tensor, clip: float) -> Tensor:
    """Return -min(r * A, clip(r, 1 - clip, 1 + clip) * A) per token, r = exp(log π - log π_old) (Schulman et al. 2017, eq. 7)."""
    ratio_N = torch.exp(logps_N - old_logps_N)
    return -torch.minimum(ratio_N * advantages_N, ratio_N.clamp(1 - clip, 1 + clip) * advantages_N)


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, clip: float) -> Tensor:
    """Return per token half the larger squared error of V and of V clipped to within `clip` of the old V (Details; OpenAI's baselines)."""
    clipped_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_N - returns_N) ** 2, (clipped_N - returns_N) ** 2)


def adapted_beta(beta: Tensor, kl: Tensor, target: float, n_answers: int, horizon: int) -> Tensor:
    """Return beta * (1 + clip(kl / target - 1, -0.2, 0.2) * n_answers / horizon) (Ziegler et al. 2019, section 2.2)."""
    return beta * (1 + (kl / target - 1).clamp(-0.2, 0.2) * n_answers / horizon)


class Algorithm(BaseAlgorithm):
    """Make answers more likely if the reward model scores them above what the value head expected."""

    data_format = "prompts"
    needs = frozenset({"rollouts"})
    loss_reduction = "tokens"

    class Settings(Rollout):
        """The defaults are those of Ziegler et al. (2019, their code) and, for `kl_coef` and `missing_eos_penalty`, of N+."""

        kl_coef: Annotated[float, Field(ge=0)] = 0.05
        """Weight of the KL to the starting weights in the reward."""
        target_kl: Annotated[float, Field(gt=0)] | None = None
        """Nats per answer that an adaptive `kl_coef` steers to; without it `kl_coef` is fixed."""
        kl_horizon: Annotated[int, Field(gt=0)] = 10_000
        """Answers over which an adaptive `kl_coef` changes; a low horizon adapts faster.

        While the distance is a fifth or more too large, the coefficient changes by a factor e over five times as many answers.
        """
        gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
        """Discount."""
        lam: Annotated[float, Field(ge=0, le=1)] = 0.95
        """Lambda of the generalised advantage estimate."""
        cliprange: Annotated[float, Field(gt=0, lt=1)] = 0.2
        """How far the ratio of probabilities may go before it is clipped."""
        cliprange_value: Annotated[float, Field(gt=0)] = 0.2
        """How far the value may go before it is clipped."""
        vf_coef: Annotated[float, Field(ge=0)] = 0.1
        """Weight of the value loss."""
        missing_eos_penalty: Annotated[float, Field(ge=0)] = 1.0
        """Subtracted from the score of an answer that was cut off.

        N+ sets such a score to -1.
        """
        max_score: Annotated[float, Field(gt=0)] | None = None
        """Scores are clipped to between minus this and this."""
        whiten_rewards: bool = False
        """Divide the rewards of an iteration by their standard deviation.

        Details does; N+ does not.
        """

    def prepare(self, batch: Batch, logps_RT: Tensor) -> dict[str, Tensor]:
        """Return the advantages and returns of an iteration's answers, the policy's log-probs and values at sampling, and what is logged.

        Advantages are whitened over the whole iteration, as in N+ (Details does it per minibatch), so that minibatches do not change them.
        """
        settings, mask_RT, old_logps_RT = self.settings, batch["answer_mask_RT"], batch["old_logps_RT"]
        beta_R = self._beta_R(batch)
        scores_R = batch["scores_R"] - settings.missing_eos_penalty * ~batch["ended_R"]
        if settings.max_score is not None:
            scores_R = scores_R.clamp(-settings.max_score, settings.max_score)
        rewards_RT = kl_rewards(scores_R, old_logps_RT, logps_RT, mask_RT, beta_R[:, None])
        kl_R, sums_R = (old_logps_RT - logps_RT).sum(1), rewards_RT.sum(1)
        if settings.whiten_rewards:
            rewards_RT = whiten(rewards_RT, mask_RT, shift_mean=False)
        advantages_RT = gae(rewards_RT, batch["old_values_RT"], mask_RT, settings.gamma, settings.lam)
        return {
            "old_logps_RT": old_logps_RT,
            "old_values_RT": batch["old_values_RT"],
            "advantages_RT": whiten(advantages_RT, mask_RT),
            "returns_RT": advantages_RT + batch["old_values_RT"],
            "score": batch["scores_R"],
            "reward": sums_R,
            "kl": kl_R,
            "beta": beta_R,
            "ended": batch["ended_R"].float(),
        }

    def _beta_R(self, batch: Batch) -> Tensor:
        """Return this iteration's KL coefficient, the same for each answer."""
        settings, before, n_answers = self.settings, batch["before"], len(batch["scores_R"])
        beta = before["beta"][0] if before else torch.tensor(settings.kl_coef)
        if before and settings.target_kl is not None:
            beta = adapted_beta(beta, before["kl"].mean(), settings.target_kl, n_answers, settings.kl_horizon)
        return beta.repeat(n_answers)

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per answer token. Logs both terms, how often the ratio was clipped, and figures of the iteration's answers."""
        settings, mask_RT = self.settings, batch["answer_mask_RT"]
        kept = ("old_logps_RT", "advantages_RT", "values_RT", "old_values_RT", "returns_RT")
        logps_N, old_logps_N, advantages_N, values_N, old_values_N, returns_N = (
            values_RT[mask_RT] for values_RT in (logps_RT, *(batch[name] for name in kept))
        )
        policy_loss_N = ppo_loss(logps_N, old_logps_N, advantages_N, settings.cliprange)
        value_loss_N = value_loss(values_N, old_values_N, returns_N, settings.cliprange_value)
        metrics = {
            "policy_loss": policy_loss_N,
            "value_loss": value_loss_N,
            "clipped": (torch.expm1(logps_N - old_logps_N).abs() > settings.cliprange).float(),
            "entropy": batch["entropy_RT"][mask_RT],
            "answer_tokens": mask_RT.sum(1).float(),
        }
        return policy_loss_N + settings.vf_coef * value_loss_N, metrics | {
            name: batch[name] for name in ("score", "reward", "kl", "beta", "ended")
        }
