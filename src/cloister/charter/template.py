"""The file that ``cloister charter new`` writes: every key with a comment, to be filled in."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cloister.charter.charter import FORMAT
from cloister.charter.names import NAME_CHARS, is_name
from cloister.errors import CharterError

VALID: Final = timedelta(days=365)


def template(name: str, *, now: datetime) -> str:
    """The text of a new charter, valid for a year from the day of ``now`` (UTC). What is to be filled in is a fault
    until it is.

    Raises:
        CharterError: not a name for a charter.
    """
    if not is_name(name):
        raise CharterError(
            f"{name!a} is no name for a charter: it starts with a letter or digit, and has at most {NAME_CHARS}"
            " letters, digits, spaces and marks such as - and _"
        )
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return _TEMPLATE.format(
        format=FORMAT, name=name, not_before=f"{day:%Y-%m-%dT%H:%M:%SZ}", not_after=f"{day + VALID:%Y-%m-%dT%H:%M:%SZ}"
    )


_TEMPLATE: Final = """\
# A charter: who works together, which software may see their contributions, and what may leave it.
# Reference: docs/charter.md. Look it over with `cloister charter check`: it explains every fault and every hole.
# All members sign the same content: its digest does not depend on layout, comments, or the order of keys and lists.

format = "{format}"
name = "{name}"
serial = 1                              # a successor has a greater one, and the line below
# supersedes = "..."                    # the digest of the charter before it
not_before = {not_before}
not_after = {not_after}

# One organisation is one member: one name, one role, one key.
#   owner       contributes from its own data, and signs
#   researcher  submits jobs, or computes with contributions where `interactive` is true
#   auditor     looks, and computes nothing
# A key is the fingerprint that `cloister key show` prints. Have it told to you by its owner.

[[members]]
name = "bob"
role = "owner"
key = "sha256:..."

[[members]]
name = "alice"
role = "owner"
key = "sha256:..."

[[members]]
name = "chuck"
role = "owner"
key = "sha256:..."

[[members]]
name = "rosa"
role = "researcher"
key = "sha256:..."

[aggregator]
addresses = ["agg.example:7443"]        # where members dial it

# Which software may be the aggregator: any one entry will do. What is not checked is written as "any".
# A new version is an entry beside the old one; the old one goes with the next charter.

[[software]]
name = "rehearsal"
tee = "simulated"                       # proves nothing; stands beside no real TEE, and each node has to accept it too
measurement = ["..."]                   # SHA-384 of what runs, from: cloister attest measure
min_svn = 0
platforms = "any"                       # or ["simulated:<64 hexadecimal digits>"]

# [[software]]
# name = "aggregator 0.1 on SGX"
# tee = "sgx"
# mr_enclave = ["..."]                  # 64 hexadecimal digits each, or "any"
# mr_signer = "any"
# isv_prod_id = 0                       # or "any"
# min_isv_svn = 0
# allowed_status = ["UpToDate", "SWHardeningNeeded"]
# allowed_advisories = ["INTEL-SA-00615"]         # each advisory of the platform must be here; or "any"
# min_eval_number = 17                  # the least tcbEvaluationDataNumber of Intel's collateral
# max_collateral_age = "30 d"
# platforms = ["ppid:<32 hexadecimal digits>"]    # or platform_instance_id:..., or "any"

# [[software]]
# name = "aggregator 0.1 on TDX"
# tee = "tdx"
# mr_td = ["..."]                       # 96 hexadecimal digits each, or "any"; so are all below
# rt_mr0 = ["..."]
# rt_mr1 = ["..."]
# rt_mr2 = ["..."]
# rt_mr3 = ["..."]
# mr_config_id = "any"
# mr_owner = "any"
# mr_owner_config = "any"
# min_tee_tcb_svn = "..."               # optional: 32 hexadecimal digits, compared byte by byte
# allowed_status = ["UpToDate"]
# allowed_advisories = []
# min_eval_number = 17
# max_collateral_age = "30 d"
# platforms = ["ppid:<32 hexadecimal digits>"]

# [[software]]
# name = "aggregator 0.1 on SEV-SNP"
# tee = "snp"
# measurement = ["..."]                 # 96 hexadecimal digits each, or "any"
# host_data = ["..."]                   # 64
# id_key_digest = "any"                 # 96
# author_key_digest = "any"             # 96
# min_guest_svn = 0
# products = ["Milan"]                  # Milan, Genoa, Turin; each has its own TCB below
# allow_smt = false
# require_single_socket = false
# signers = ["vcek"]                    # vcek, vlek
# max_collateral_age = "400 d"          # of AMD's CRL, which seldom changes; or: unsafe_no_revocation = true
# platforms = ["chip_id:<128 hexadecimal digits>"]
# [software.min_tcb.Milan]              # the least of the committed, launch and reported TCB; Turin has fmc too
# bl = 3
# tee = 0
# snp = 23
# ucode = 209

[limits]
floor = 3                               # the least members in an aggregate; no fewer ever come out
largest_share = 0.5                     # the greatest weight of one member in it
clip = 1.0                              # the greatest norm of one record's gradient; where noise does not hide records,
#                                       # of one contribution's parameters
# Noise is added to every aggregate, once, and hides whether a record was in it; with unit = "owner" whether an owner
# was. Its deviation is `multiplier` times the clip: with less than 2 it hides little. What it is worth is an epsilon,
# which `cloister charter check` tells by rounds, at this delta: far below 1 / the rows of an owner. Or: noise = "none".
noise = {{ unit = "record", multiplier = 2.0, delta = 1e-5 }}
rounds = 200                            # aggregates in all; a data set's earlier studies count among them
min_examples = 100                      # behind one contribution
min_batch = 32                          # rows behind each step of it, unless they are drawn; 16 at least
min_rows = 96                           # rows that count in it, likewise, weighed by what their steps do to the model
proven_plans = true                     # only plans of which it is proved that every result takes all rows alike
# first_model = "..."                   # SHA-256 of the model of the first round; needed with jobs
#                                       # (first_model_file: that of the published safetensors file that it is in)
interactive = false                     # true, and noise = "none": operations one by one, for trusted researchers
# lost_key_days = 30                    # a quorum may replace an owner's lost key, so long after each node has seen it;
#                                       # without, a lost key ends that owner's part for good

# What owners' nodes may compute, number by number; `cloister.job` writes such a table. All else is refused.
# [[jobs]]
# name = "train"
# plan = "..."                          # SHA-256 of the plan, from: plan.digest.hex()
# data = "#mri"                         # the tag of the data sets
# rounds = 200
# sampling = {{ rate = 0.1, rows = 300 }} # each row of every owner is drawn with this probability, in each round anew;
#                                       # the sum is divided by `rows`, about rate times the rows of all owners
# batch_size = 64                       # rows that are computed at once, which changes no result
# steps = 1                             # one round is one step, on the rows that were drawn
# optimizer = {{ name = "SGD", lr = 0.5 }} # and nothing else: momentum is the strategy's
# strategy = {{ name = "FedAvgM", momentum = 0.9 }}
# max_s = 600                           # seconds for a round

# Where models have more than what is learned (a language model, and adapters on it): the files that owners get from its
# publisher; `cloister.Base` writes this table. They are never sent.
# [[bases]]
# name = "gpt2"
# files = ["..."]                       # SHA-256 of each of its safetensors files

# What the first model is drawn from, tensor by tensor, so that nobody chooses its values; `cloister.recipe_toml` writes
# it, and `cloister.draw_first_model` draws.
# [[first_model]]
# tensor = "0.weight"
# dtype = "float32"
# shape = [16, 6]
# draw = "uniform"                      # or "normal", with mean and std too; or "constant", with a value
# low = -0.408
# high = 0.408

# With noise = "none" more may be told, and nothing hides it. Of all this, [limits] may have:
#   clip_buffers = 10.0                 # the greatest norm of a contribution's buffers; for a model with BatchNorm. Or
#                                       # home_buffers = true: each owner keeps its own, and none are sent
#   row_buckets = [200, 500, 1000]      # an owner's rows are told as one of these or min_examples; needed to weigh by
#                                       # rows; without, they are told to nobody
# numbers may come out beside a model, clipped to a range: the loss, the plan's own metrics, and of the updates
# `clipped`, the share of them that were longer than the clip, and `update_norm`, how long they were, from which one
# sees whether the clip is too low:
#   [[limits.metrics]]
#   name = "loss"
#   low = 0.0
#   high = 10.0
# and owners take several steps in a round, on whole batches:
#   [[jobs]]
#   name = "train"
#   plan = "..."
#   data = "#mri"
#   rounds = 20
#   batch_size = 32                     # rows of every owner in every step
#   steps = 20                          # of every owner in every round; `cloister study plan` makes them of epochs
#   optimizer = {{ name = "SGD", lr = 0.1, momentum = 0.9 }}
#   strategy = {{ name = "FedAvg" }}
#   weights = "uniform"                 # or "rows"
#   max_s = 600
"""
