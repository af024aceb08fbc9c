"""Checkpoints as transformers saves and loads them, with adapters of peft: all that is frozen is in the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoConfig, LlamaConfig

import cloister
from cloister.errors import ConfigurationError
from cloister.plans.look import look
from cloister.study.job import Described, describe
from cloister.worker.data.rows import Arrays
from cloister.worker.plans import Plan
from cloister.worker.training import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*fan_in_fan_out"),
]

TOKENS = {"vocab_size": 120, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
NEO = {"hidden_size": 32, "num_layers": 6, "attention_types": [[["global", "local"], 3]], "num_heads": 4}
LENGTH = 12


class Kind(NamedTuple):
    """A checkpoint, and how it is loaded and adapted."""

    config: Callable[[], Any]
    dtype: torch.dtype = torch.float32
    attention: str = "sdpa"
    target: str | list[str] = "all-linear"
    checkpointing: bool = False
    dropout: float = 0.0


KINDS = {
    "gpt2": Kind(lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=1024, **TOKENS)),
    "llama": Kind(lambda: LlamaConfig(num_hidden_layers=2, **LLAMA, **TOKENS), dropout=0.1),
    "llama in bfloat16, tied, with checkpoints": Kind(
        lambda: LlamaConfig(num_hidden_layers=1, tie_word_embeddings=True, **LLAMA, **TOKENS),
        dtype=torch.bfloat16,
        attention="eager",
        target=["q_proj", "v_proj"],
        checkpointing=True,
    ),
}


@cloister.plan
def loss(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    """Of the next token."""
    found: Tensor = model(input_ids=ids, labels=labels).loss
    return found


def saved(kind: Kind, folder: Path) -> nn.Module:
    """A model as it comes from its folder, in which it is in several files, with an adapter."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(kind.config()).to(kind.dtype).save_pretrained(folder, max_shard_size="20KB")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation=kind.attention)
    model.config.use_cache = False
    if kind.checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=kind.target, lora_dropout=kind.dropout)
    found: nn.Module = get_peft_model(model, lora)
    return found


def rows(count: int) -> tuple[Tensor, Tensor]:
    """Texts of different lengths, filled up behind."""
    ids = torch.randint(1, 120, (count, LENGTH), generator=torch.Generator().manual_seed(3))
    empty = torch.arange(LENGTH) >= torch.randint(4, LENGTH, (count, 1), generator=torch.Generator().manual_seed(4))
    return ids.masked_fill(empty, 0), ids.masked_fill(empty, -100)


class Case(NamedTuple):
    """A kind that was captured and described."""

    model: nn.Module
    plan: Plan
    folder: Path
    described: Described


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = saved(KINDS[request.param], folder)
    plan = loss.capture(model, example=rows(4))
    return Case(model, plan, folder, describe(model, plan, base=cloister.Base(folder)))


def test_what_is_frozen_is_in_the_files_and_only_adapters_are_sent(case: Case) -> None:
    tensors = case.described.tensors
    assert len(list(case.folder.glob("*.safetensors"))) > 1
    assert all("lora_" in part.name for part in tensors.parts)
    assert {part.name for part in tensors.parts} == {
        name for name, held in case.model.named_parameters() if held.requires_grad
    }
    assert {each.name for each in tensors.base} == {
        name for name, held in case.model.named_parameters() if not held.requires_grad
    }
    assert {each.name.rpartition(".")[2] for each in tensors.constants} <= {"inv_freq", "original_inv_freq"}
    assert sum(len(each.data) for each in tensors.constants) < 1 << 10


def test_the_loss_of_transformers_is_proved_to_take_all_rows_alike(case: Case) -> None:
    found = look(case.plan.program)
    assert found.averages
    assert not [finding for finding in found.findings if finding.severity in ("warning", "danger")]


def test_an_adapter_is_trained_as_a_plain_loop_trains_it(case: Case) -> None:
    ids, labels = rows(8)
    trained = train(
        case.plan,
        Arrays({"ids": ids, "labels": labels}),
        parameters=dict(case.model.named_parameters()),
        buffers=dict(case.model.named_buffers()),
        optimizer=cloister.SGD(lr=0.5),
        batch_size=8,
        local_epochs=1,
        seed=1,
        layout=case.described.tensors.layout,
    )
    if any(isinstance(each, nn.Dropout) and each.p for each in case.model.modules()):
        assert trained.delta.norm() > 0
        return
    case.model.zero_grad()
    case.model(input_ids=ids, labels=labels).loss.backward()
    layout = case.described.tensors.layout
    held = dict(case.model.named_parameters())
    wanted = torch.cat([-0.5 * held[place.name].grad.flatten() for place in layout.places])
    torch.testing.assert_close(trained.delta[: len(wanted)], wanted, rtol=0.05, atol=1e-4)


def test_masks_that_a_model_makes_by_itself_go_into_a_file_of_their_own(tmp_path: Path) -> None:
    kind = Kind(lambda: GPTNeoConfig(**NEO, **TOKENS), attention="eager", target=["q_proj"])
    model = saved(kind, tmp_path / "checkpoint")
    plan = loss.capture(model, example=rows(4))
    base = cloister.Base(tmp_path / "checkpoint")
    with pytest.raises(ConfigurationError, match=r"bool\[1, 1, 2048, 2048\].*beside=base"):
        describe(model, plan, base=base)
    cloister.write_base(model, plan, tmp_path / "masks.safetensors", beside=base)
    assert (tmp_path / "masks.safetensors").stat().st_size < 9 << 20  # two kinds of mask, however many layers
    whole = cloister.Base(tmp_path / "checkpoint", tmp_path / "masks.safetensors")
    found = describe(model, plan, base=whole).tensors
    assert not found.constants
    assert sum(each.buffer for each in found.base) == 6
    with pytest.raises(ConfigurationError, match="all that the plan does not learn is in the files beside"):
        cloister.write_base(model, plan, tmp_path / "more.safetensors", beside=whole)
