"""Three owners with text of their own fine-tune one language model, and none of them shows its text to anybody.

    pip install "cloister[llm]"
    python examples/finetune.py                      # a small GPT-2 that is made on the spot; nothing is downloaded
    python examples/finetune.py --kind llama
    python examples/finetune.py --base path/to/gpt2  # a checkpoint's folder, as the Hugging Face hub has it

Each owner holds the base model as files. What is trained and travels is a LoRA adapter (peft), a hundredth of it or so.
First in a simulation, then in a study whose aggregator and owners are processes of this machine, with the same numbers.
The adapter is left in a folder, from which peft reads it.
"""

import argparse
import os
import random
import re
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

import cloister
from cloister.testing.studies import LocalColumns, LocalStudy

LENGTH = 48
"""Tokens of a sequence."""
WORDS = {
    "sign": "a dry cough|shortness of breath|pain in the left knee|dizziness|a rash on both arms|fever since Monday",
    "found": "lungs clear|blood pressure 140 over 90|swelling, no redness|pulse regular|temperature 38.4",
    "plan": "ibuprofen 400 mg|rest and fluids|an X-ray of the chest|blood tests|cream twice a day|see again in a week",
    "firm": "Harris and Sons|the tenants' association|North Sea Freight|the insurance office|Miller Printing",
    "matter": "your invoice of 3 May|the broken heating|our last delivery|next year's contract|the missing crates",
    "wish": "a written answer|payment within ten days|an appointment|a corrected copy|your understanding",
    "dish": "onion soup|plum cake|bean stew|potato salad|rice pudding|lentil curry|apple pie",
    "cut": "peel and dice|grate|slice|chop finely|wash and halve",
    "thing": "two onions|500 g of potatoes|a clove of garlic|three apples|200 g of lentils|a bunch of parsley",
    "heat": "fry gently in butter|bake for 40 minutes|simmer until soft|boil in salted water|roast at 180 degrees",
}
KINDS = {
    "clinic": "Patient reports {sign}. On examination {found}, {found}. Plan: {plan}.",
    "office": "Dear Sir or Madam, I write about {matter}. We ask for {wish}. Yours, {firm}.",
    "kitchen": "Recipe for {dish}: {cut} {thing}, then {heat}. Serve the {dish} warm.",
}
"""What each owner writes."""
PROMPTS = {"clinic": "Patient reports", "office": "Dear Sir or Madam,", "kitchen": "Recipe for"}


def texts(kind: str, count: int, *, seed: int) -> list[str]:
    """So many texts of a kind."""
    chance = random.Random(seed)  # noqa: S311 - these are no secrets
    return [re.sub(r"\{(\w+)\}", lambda slot: chance.choice(WORDS[slot[1]].split("|")), kind) for _ in range(count)]


def scraps(count: int, *, seed: int) -> list[str]:
    """Texts in which three words at a time make sense: what the base that is made here has read. It has met the words,
    and none of what owners say with them."""
    chance = random.Random(seed)  # noqa: S311
    words = " ".join(text for kind in KINDS.values() for text in texts(kind, count, seed=seed)).split()
    starts = [chance.choices(range(len(words) - 3), k=10) for _ in range(count)]
    return [" ".join(word for start in some for word in words[start : start + 3]) for some in starts]


def columns(tokenizer, some: list[str]) -> dict[str, np.ndarray]:
    """Texts as an owner keeps them: token ids, filled up behind each text; and labels, which are -100 there, so that
    the loss leaves that out. What is behind a text is not seen by it: a language model looks back only."""
    tokens = tokenizer(
        [text + tokenizer.eos_token for text in some],
        padding="max_length", truncation=True, max_length=LENGTH, padding_side="right", return_tensors="np",
    )  # fmt: skip
    ids = tokens["input_ids"].astype(np.int64)
    return {"ids": ids, "labels": np.where(tokens["attention_mask"] == 1, ids, -100)}


@cloister.plan
def loss(model, ids, labels):
    """Of the next token, as transformers computes it: a mean over all tokens of a batch."""
    return model(input_ids=ids, labels=labels).loss


def make_base(folder: Path, *, kind: str) -> None:
    """Makes a small model and trains it for a moment on scraps, so that it knows a little."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small(kind, vocabulary=len(tokenizer)))
    held = {name: torch.from_numpy(each) for name, each in columns(tokenizer, scraps(512, seed=2)).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(6):
        for rows in torch.randperm(512).split(16):
            optimizer.zero_grad()
            model(input_ids=held["ids"][rows], labels=held["labels"][rows]).loss.backward()
            optimizer.step()
    model.save_pretrained(folder, max_shard_size="500KB")
    tokenizer.save_pretrained(folder)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Pairs of bytes that are frequent in the scraps."""
    end = "<end>"
    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(scraps(300, seed=1), vocab_size=600, special_tokens=[end], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=pairs._tokenizer, eos_token=end, pad_token=end)


def small(kind: str, *, vocabulary: int) -> GPT2Config | LlamaConfig:
    """A model of some 300,000 parameters that learns within a minute."""
    shared = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        undropped = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(n_embd=96, n_layer=2, n_head=4, n_positions=128, **undropped, **shared)
    return LlamaConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **shared,
    )


def load(base: Path):
    """The base model, with the element types of its files, and an adapter that does nothing yet."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model.config.use_cache = False
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"))


@torch.no_grad()
def perplexity(model, held: dict[str, np.ndarray]) -> float:
    """How many tokens, as it were, the model wavers between at each place of these texts."""
    given = {name: torch.from_numpy(each) for name, each in held.items()}
    return model.eval()(input_ids=given["ids"], labels=given["labels"]).loss.exp().item()


def generate(model, tokenizer, prompt: str) -> str:
    """What the model writes after a prompt, always taking the likeliest token."""
    given = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    written = model.generate(**given, max_new_tokens=30, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(written[0], skip_special_tokens=True)


def study(folder: Path, files: dict[str, Path], model, plan, base, numbers):
    """The same numbers in a study: an aggregator and three owners, each a process; only the TEE is simulated. The
    adapter starts from values that the charter draws, so that nobody chooses them."""

    def first_model(charter: Path) -> bytes:
        return cloister.model_digest(cloister.draw_first_model(model, charter), plan, base=base)

    limits = {
        "floor": 3,
        "largest_share": 0.4,
        "clip": 10.0,
        "metrics": {"loss": (0.0, 20.0)},
        "bases": {"base": [*base.digests.values()]},
        "recipe": cloister.recipe_toml(model, plan),
        "first_model": first_model,
    }
    owners = {name: [LocalColumns(file, ("ids", "labels"), ("#text",))] for name, file in files.items()}
    job = cloister.job("tune", plan, data="#text", **numbers)
    with LocalStudy(folder, owners, jobs=[job], limits=limits, models=[*base.digests]) as local:
        local.start_aggregator()
        local.start()
        local.gather()
        start = cloister.draw_first_model(model, folder / "charter.toml")
        return local.study().fit(start, plan, data="#text", base=base, on_round=print, **numbers)


def main(base: Path, out: Path, work: Path, *, rounds: int) -> None:
    """Everything, in order."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), load(base)
    train = {name: columns(tokenizer, texts(kind, 192, seed=3)) for name, kind in KINDS.items()}
    judged = {name: columns(tokenizer, texts(kind, 64, seed=4)) for name, kind in KINDS.items()}
    numbers = {"optimizer": cloister.Adam(lr=5e-3), "batch_size": 16, "steps": 12, "rounds": rounds}

    data = {name: tuple(map(torch.from_numpy, held.values())) for name, held in train.items()}
    tried = cloister.simulate(model.eval(), loss, owners=data, floor=3, clip=10.0, on_round=print, **numbers)

    files = {name: work / f"{name}.npz" for name in train}
    for name, held in train.items():
        np.savez(files[name], **held)
    run = study(work, files, model, tried.plan, cloister.Base(base), numbers)

    learned = sum(each.numel() for each in model.parameters() if each.requires_grad)
    whole = sum(each.numel() for each in model.parameters())
    print(f"\nlearned: {learned:,} of {whole:,} values; each way and round {4 * learned:,} bytes for each owner")
    print(f"perplexity  {'before':>8} {'simulated':>10} {'study':>8}")
    for name, held in judged.items():
        before, simulated, after = (perplexity(each, held) for each in (model, tried.model, run.model))
        print(f"{name:<10} {before:>8.1f} {simulated:>10.1f} {after:>8.1f}")
    for name, prompt in PROMPTS.items():
        print(f"{name:<10} {generate(run.model, tokenizer, prompt)}")

    run.model.save_pretrained(out)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), out).eval()
    ids = torch.from_numpy(judged["clinic"]["ids"])
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, run.model(input_ids=ids).logits)
    print(f"the adapter is in {out}: peft.PeftModel.from_pretrained(base, {str(out)!r})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, help="the folder of a checkpoint; none: a small one is made")
    parser.add_argument("--kind", choices=["gpt2", "llama"], default="gpt2", help="of the one that is made")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("adapter"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if given.base is None:
            make_base(Path(work, "base"), kind=given.kind)
        main(given.base or Path(work, "base"), given.out, Path(work), rounds=given.rounds)
