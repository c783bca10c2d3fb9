"""All of reinforcement learning in one file: a tiny Qwen3 learns which of two digits is the larger one.

The mathematics and the data types are rlscale's own (`rlscale.algo`, `rlscale.data`); the model, its sampling and its
optimizer are plain transformers and torch, so that everything that happens can be read here, from top to bottom. A run
of the framework does the same with Megatron-core ranks, SGLang engines and the two in their own processes.

    python examples/grpo_in_one_file.py              # about a minute; prints the accuracy as it rises
    python examples/grpo_in_one_file.py 5            # five iterations
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlscale.algo import advantages, losses, reduction, scores
from rlscale.data.batches.batch import Batch
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.tokens.character_tokenizer import SPECIAL_TOKENS, character_tokenizer, vocabulary_size

CHARACTERS = "0123456789?"
END = SPECIAL_TOKENS.index("<|im_end|>")
ITERATIONS, GROUPS, SAMPLES_PER_GROUP, STEPS = 100, 32, 16, 2
RESPONSE = 2  # tokens: the digit, and the end of the turn
LEARNING_RATE = 1.5e-3


def problems() -> list[Prompt]:
    """`37?` with the label `7`, for every pair of different digits."""
    tokenizer = character_tokenizer(CHARACTERS, 16)
    pairs = [(a, b) for a in range(10) for b in range(10) if a != b]
    texts = [f"{a}{b}?" for a, b in pairs]
    encoded = [np.array(tokenizer(text).input_ids, np.int32) for text in texts]
    return [
        Prompt(index, text, tokens, label=str(max(pair)), text=text)
        for index, (text, tokens, pair) in enumerate(zip(texts, encoded, pairs, strict=True))
    ]


def reward(response: np.ndarray, label: str) -> float:
    """Half for the right digit, half for the end of the turn right after it."""
    digit = len(SPECIAL_TOKENS) + CHARACTERS.index(label)
    right = bool(response[0] == digit)
    return 0.5 * right + 0.5 * (right and len(response) > 1 and bool(response[1] == END))


@torch.no_grad()
def sample(model: Qwen3ForCausalLM, prompts: list[Prompt]) -> list[Group]:
    """A group for each prompt: what an engine does, with the log-probs that it sampled from."""
    rows = [prompt for prompt in prompts for _ in range(SAMPLES_PER_GROUP)]
    tokens = torch.tensor(np.stack([prompt.tokens for prompt in rows]), dtype=torch.long)
    chosen: list[Tensor] = []
    for _ in range(RESPONSE):
        logprobs = model(torch.cat([tokens, *chosen], dim=1)).logits[:, -1].log_softmax(-1)
        chosen.append(torch.multinomial(logprobs.exp(), 1))
    responses = torch.cat(chosen, dim=1).numpy().astype(np.int32)
    samples = []
    for row, (prompt, response) in enumerate(zip(rows, responses, strict=True)):
        length = 1 if response[0] == END else RESPONSE  # a turn that has ended is not generated on
        one = Sample.from_response(prompt, row % SAMPLES_PER_GROUP, response[:length], None, version=0)
        one.reward = reward(response[:length], prompt.label)
        samples.append(one)
    starts = range(0, len(samples), SAMPLES_PER_GROUP)
    return [Group(prompt, samples[at : at + SAMPLES_PER_GROUP]) for prompt, at in zip(prompts, starts, strict=True)]


def prepared(groups: list[Group]) -> Batch:
    """The whole iteration's mathematics, once, in float64: scores, advantages, the weight of every token."""
    batch = Batch.from_groups(groups, STEPS)
    mask, lengths, number = batch.column("loss_mask"), batch.lengths, batch.column("sample")
    score = scores.score("group_mean_std", batch.column("reward"), batch.column("group"))
    weight = reduction.token_weights(
        "sample_mean",
        mask,
        lengths=lengths,
        sample=number,
        step=batch.column("step"),
        max_response_tokens=RESPONSE,
    )
    batch = batch.with_column("advantages", advantages.broadcast(score, number, lengths, mask))
    return batch.with_column("loss_weight", weight)


def logprobs(model: Qwen3ForCausalLM, batch: Batch) -> Tensor:
    """Log-prob of every token of the batch, [T], aligned to the token; 0 for the first of each row."""
    lengths = torch.tensor(batch.lengths)
    present = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.zeros(present.shape, dtype=torch.long)
    tokens[present] = torch.tensor(batch.column("tokens"), dtype=torch.long)
    predicted = model(tokens, attention_mask=present.long()).logits[:, :-1].log_softmax(-1)
    of_token = predicted.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return torch.nn.functional.pad(of_token, (1, 0))[present]


def train(model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """The steps of one iteration; the share of clipped tokens in the last of them."""
    with torch.no_grad():
        old = logprobs(model, batch)  # once per iteration, before its first step
    step_of_token = np.repeat(batch.column("step"), batch.lengths)
    clipped = 0.0
    for step in range(STEPS):
        rows = np.flatnonzero(batch.column("step") == step)
        part, at = batch.select(rows), torch.tensor(step_of_token == step)
        advantage = torch.tensor(part.column("advantages"))
        policy = losses.clip(logprobs(model, part), old[at], advantage, eps_low=0.2, eps_high=0.2)
        loss = (torch.tensor(part.column("loss_weight")) * policy.loss).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clipped = float((policy.clipped_low | policy.clipped_high).float().sum() / part.column("loss_mask").sum())
    return clipped


def main(iterations: int = ITERATIONS) -> float:
    """Train, and return the mean reward of the last iteration."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    order = np.random.default_rng(0)
    config = Qwen3Config(
        vocab_size=vocabulary_size(CHARACTERS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    every, mean = problems(), 0.0
    for iteration in range(1, iterations + 1):
        chosen = [every[number] for number in order.choice(len(every), GROUPS, replace=False)]
        groups = sample(model, chosen)
        mean = float(np.mean([group.rewards.mean() for group in groups]))
        clipped = train(model, optimizer, prepared(groups))
        if iteration % 5 == 0 or iteration == 1:
            print(f"iteration {iteration:3d}   reward {mean:.3f}   clipped {clipped:.3f}", flush=True)
    return mean


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ITERATIONS)
