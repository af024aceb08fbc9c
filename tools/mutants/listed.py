"""The list: each mutant, the promise that it breaks, and the unit tests that have to notice.

A mutant replaces as little as it can, so that a change of wording does not touch it. Whoever changes one of these lines
changes its mutant too; whoever adds a line that security rests on adds one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tools.mutants.running import Mutant


def _in(file: str, tests: str, *changes: tuple[str, str, str, str]) -> Iterator[Mutant]:
    """Mutants of one file, each (name, old, new, what it breaks), that the same tests have to notice."""
    for name, old, new, breaks in changes:
        yield Mutant(name=name, file=file, old=old, new=new, breaks=breaks, tests=tuple(tests.split()))


_LEDGER: Final = (
    *_in(
        "ledger/chain.py",
        "tests/ledger/test_chain.py",
        (
            "quorum-below-half",
            "charter.limits.floor) // 2",
            "charter.limits.floor) // 3",
            "any two groups that sign have floor - 1 owners in common",
        ),
        (
            "quorum-unchecked",
            "if len(signers) < quorum(self.charter):",
            "if False:",
            "a round needs the signatures of a quorum",
        ),
        (
            "member-unsigned",
            '        if missing:\n            raise LedgerError(f"{self._owners[missing[0]]}',
            '        if False:\n            raise LedgerError(f"{self._owners[missing[0]]}',
            "all who are in a cohort have signed it",
        ),
        (
            "another's-public-key",
            "if fingerprint(each.public_key) != each.member:",
            "if False:",
            "a signature counts for the owner whose key made it",
        ),
        (
            "member-signature-unverified",
            "keys.verify(each.signature, message=message, public_key=each.public_key)",
            "pass",
            "members' signatures are verified",
        ),
        (
            "instance-signature-unverified",
            ".verify(record.signature, to_be_signed(record))",
            "",
            "a record is signed by the instance that made it",
        ),
        (
            "instance-replaced",
            "if cohort.signer != self.signer:",
            "if False:",
            "only the newest instance signs rounds",
        ),
        (
            "record-elsewhere",
            "placed.sequence != self.sequence + 1 or placed.previous != self.head",
            "placed.sequence != self.sequence + 1",
            "a record follows the one whose hash it holds",
        ),
        (
            "record-of-another-charter",
            "if placed.charter != self._digest:",
            "if False:",
            "a chain is of one charter",
        ),
        (
            "instance-nonce",
            "if transcript.nonce != nonce_of(self.head):",
            "if False:",
            "an instance's evidence was made for its place in the ledger",
        ),
        (
            "charter-rounds",
            "if self.released >= limits.rounds:",
            "if False:",
            "the charter's budget of rounds",
        ),
        (
            "round-of-no-job",
            "agreed = self.charter.job(cohort.name)",
            "agreed = self.charter.job(cohort.name) or self.charter.jobs[0]",
            "every round is of a job of the charter",
        ),
        (
            "more-rounds-than-agreed",
            "if self.rounds_of(agreed.name) >= agreed.rounds:",
            "if False:",
            "a job has as many rounds as the charter says",
        ),
        (
            "uniform-weights-unequal",
            'if agreed.weights == "uniform" and len(',
            "if False and len(",
            "owners that count the same have the same weight",
        ),
        (
            "cohort-floor",
            "if len(members) < limits.floor:",
            "if False:",
            "no cohort is smaller than the floor",
        ),
        (
            "contribution-twice",
            "len(commitments) < len(members) or commitments & self.commitments",
            "len(commitments) < len(members)",
            "a contribution is in one round",
        ),
        (
            "largest-share",
            "share.weight <= most for share",
            "share.weight <= 1 for share",
            "nobody counts for more than the charter allows",
        ),
        (
            "weights-add-up",
            "for share in cohort.shares) - 1) <= ROUNDING",
            "for share in cohort.shares) - 1) <= 1",
            "the weights of a cohort are those of a mean",
        ),
        (
            "metric-range",
            "if not metric.low <= value <= metric.high:",
            "if False:",
            "metrics that come out are within the charter's range",
        ),
        (
            "other-outcome",
            "if cohort.outcome != outcome:",
            "if False:",
            "what is released is what members signed",
        ),
        (
            "strangers-sign",
            "if any(member not in self._owners for member in members):",
            "if False:",
            "only owners are in a cohort, and only owners sign",
        ),
    ),
    *_in(
        "ledger/sync.py",
        "tests/ledger/test_sync.py",
        (
            "fork-followed",
            "if ours_go_on and theirs_go_on:",
            "if False:",
            "no released round is lost: of two chains that each have one, neither goes on",
        ),
        (
            "rollback-followed",
            "return ours if ours_go_on or shared == theirs.sequence else theirs",
            "return theirs",
            "a chain that lacks released rounds is not taken over",
        ),
    ),
    *_in(
        "ledger/following.py",
        "tests/ledger/test_sync.py",
        (
            "fork-for-a-member",
            "if found is not theirs:",
            "if False:",
            "a member that is handed a chain without a round that it knows says so",
        ),
    ),
    *_in(
        "ledger/cohorts.py",
        "tests/ledger/test_cohorts.py",
        (
            "cohorts-too-near",
            "return 0 < len(members ^ other) < floor",
            "return False",
            "nobody is asked to sign cohorts that differ by fewer than the floor",
        ),
        (
            "cohort-of-too-few",
            "if len(members) >= floor and would_be_signed(",
            "if would_be_signed(",
            "no cohort of fewer than the floor is proposed",
        ),
        (
            "liars-believed",
            "return owners >= floor - 1",
            "return True",
            "fewer than floor - 1 liars leave out nobody else",
        ),
    ),
)

_OWNER: Final = (
    *_in(
        "node/study/countersigner.py",
        "tests/node/study/test_countersigner.py",
        (
            "signs-before-the-proof",
            "if not proved or cohort.signer",
            "if cohort.signer",
            "a signature only after the instance has proved itself in this round",
        ),
        (
            "signs-for-another-instance",
            "if not proved or cohort.signer != ledger.signer:",
            "if not proved:",
            "a signature only for the newest instance of the ledger",
        ),
        (
            "signs-a-round-twice",
            "if number <= max((0, *before)):",
            "if False:",
            "one signature a round, in their order",
        ),
        (
            "signs-under-another-name",
            "if jobs.get(cohort.job, cohort.name) != cohort.name:",
            "if False:",
            "a cohort has the charter's name of the job that was shown",
        ),
        (
            "signs-what-cannot-follow",
            "ledger.check_cohort(cohort)",
            "pass",
            "no signature for what the ledger would refuse",
        ),
        (
            "own-budget",
            "if spent >= self._limits.rounds:",
            "if False:",
            "a data set is in no more releases than its owner allows",
        ),
        (
            "budget-at-the-signature",
            "        self.check_budget(known.data)  # 12\n",
            "",
            "the budget counts at the signature too",
        ),
        (
            "own-floor",
            "if len(members) < limits.floor:",
            "if False:",
            "no signature below the owner's own floor",
        ),
        (
            "own-largest-share",
            "if any(share.weight > math.nextafter(limits.largest_share, math.inf) for share in cohort.shares):",
            "if False:",
            "nobody counts for more than the owner allows",
        ),
        (
            "differing-cohorts",
            "if 0 < differing < limits.floor:",
            "if False:",
            "no two signed cohorts on one model differ by fewer than the floor",
        ),
        (
            "another's-contribution",
            "if known.commitment != own.commitment:",
            "if False:",
            "an owner signs for its own contribution only",
        ),
        (
            "contributed-nothing",
            'raise RoundError("we contributed nothing to this round")',
            "return None",
            "an owner signs no cohort with a contribution that it did not make",
        ),
        (
            "another-job-than-trained",
            "if (known.job, known.digest) != (cohort.job, cohort.digest):",
            "if False:",
            "an owner signs for the job and the round that it trained for",
        ),
        (
            "writes-no-signature",
            "self._records.sign(signed)",
            "pass",
            "what was signed is written down before it is sent",
        ),
    ),
    *_in(
        "node/study/countersigner.py",
        "tests/node/study/test_member.py",
        (
            "own-least-batch",
            "if job.batch_size < self.min_batch:",
            "if False:",
            "no owner trains in steps of fewer rows than it allows",
        ),
        (
            "rows-told-exactly",
            "return max(bucket for bucket in self._buckets if bucket <= examples)",
            "return examples",
            "an owner's rows are told in buckets",
        ),
    ),
    *_in(
        "node/study/member.py",
        "tests/node/study/test_member.py",
        (
            "trains-before-the-proof",
            "if not self._is_proved(number) or work is None",
            "if work is None",
            "no training before the instance has proved itself in this round",
        ),
        (
            "proof-of-another-ledger",
            "if found == self.newest else None",
            "if True else None",
            "a proof counts only for the ledger that is known here",
        ),
        (
            "round-number-again",
            "if asked.round <= highest:",
            "if False:",
            "a round's number is used once",
        ),
        (
            "job-unseen",
            "if work is None or work.digest != asked.job:",
            "if work is None:",
            "an owner trains for the job that it was shown",
        ),
        (
            "job-not-what-it-is-called",
            "if jobs.job_digest(data) != digest:",
            "if False:",
            "a job is the one that its digest names",
        ),
        (
            "job-not-the-charters",
            "agreed = jobs.agreed(job, charter=self.charter)",
            "agreed = self.charter.jobs[0]",
            "an owner trains for jobs of its charter",
        ),
        (
            "own-limits-of-a-job",
            "self._limits.check_job(agreed)",
            "pass",
            "an owner trains for jobs that keep its own limits",
        ),
        (
            "model-outside-the-chain",
            "if asked.model != ledger.model:",
            "if False:",
            "an owner trains on the model that the ledger names",
        ),
        (
            "clip-not-applied",
            "clip=self._limits.clip",
            'clip=float("inf")',
            "an owner's training is clipped as its limits say",
        ),
        (
            "too-few-examples",
            "if examples < self._limits.min_examples:",
            "if False:",
            "no contribution of fewer examples than the owner wants",
        ),
        (
            "writes-no-contribution",
            "self._records.take_part(entry, begun.seen)",
            "pass",
            "a contribution is written down before it is offered",
        ),
        (
            "budget-at-the-beginning",
            "self._countersigner.check_budget(data)",
            "pass",
            "no training on a data set whose budget is spent",
        ),
    ),
    *_in(
        "node/study/replica.py",
        "tests/node/study/test_member.py",
        (
            "instances-unverified",
            "self._verify_instance(instance)",
            "pass",
            "the evidence of earlier instances is verified",
        ),
        (
            "another-model",
            "if name_of_values(tensors, model.vector) != model.digest:",
            "if False:",
            "a model that is handed over is the one that was released",
        ),
        (
            "another-state",
            "if not model.is_newest(self.ledger):",
            "if False:",
            "the strategy's state is the one that was released",
        ),
    ),
    *_in(
        "node/study/countersigner.py",
        "tests/node/study/test_own_limits.py tests/node/study/test_member.py",
        (
            "floor-of-the-charter-only",
            "max(agreed.floor, floors.floor or 0)",
            "agreed.floor",
            "an owner's own floor counts where it is stricter",
        ),
        (
            "clip-of-the-charter-only",
            "min(agreed.clip, _or_any(floors.clip))",
            "agreed.clip",
            "an owner's own clip counts where it is stricter",
        ),
        (
            "metrics-that-nobody-agreed-to",
            "            if name in self._ranges and not math.isnan(value)\n",
            "            if name in self._ranges\n",
            "a metric that is no number stays at home",
        ),
    ),
    *_in(
        "node/study/journal.py",
        "tests/node/study/test_journal.py",
        (
            "journal-changed",
            "if (number, found) != (self._count, self._hash):",
            "if False:",
            "records that were changed on the disk are not gone on with",
        ),
        (
            "journal-shared",
            "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
            "pass",
            "two nodes never use the same records",
        ),
    ),
)

_JOBS: Final = (
    *_in(
        "ledger/job.py",
        "tests/ledger/test_job.py",
        (
            "job-of-another-charter",
            "if job.charter != charter.digest:",
            "if False:",
            "a job is for the charter that it is held against",
        ),
        (
            "job-of-another-plan",
            ":= hashlib.sha256(job.plan).digest()) != found.plan:",
            ":= hashlib.sha256(job.plan).digest()) is None:",
            "a job has the plan of the charter's job of its name",
        ),
        (
            "buffers-that-nobody-bounds",
            "if charter.limits.clip_buffers is None and any(part.buffer for part in job.parts):",
            "if False:",
            "a model has buffers only where the charter says how far they may move",
        ),
        (
            "model-without-parameters",
            "if not job.regions.parameters:",
            "if False:",
            "a job trains something",
        ),
    ),
    *_in(
        "charter/job_bounds.py",
        "tests/charter/test_jobs.py",
        (
            "rate-unbounded",
            "<= pace and optimizer.lr <= LR[kind])",
            "<= pace)",
            "a learning rate is within its bound, or a charter says why not",
        ),
        (
            "rate-that-momentum-never-makes",
            "pace *= (1 - optimizer.momentum**job.steps) / (1 - optimizer.momentum)",
            "pace *= 1 / (1 - optimizer.momentum)",
            "a round moves the model, within the steps that it has",
        ),
        (
            "decay-at-owners",
            "if optimizer.weight_decay:",
            "if False:",
            "no decay hides how unlike contributions are",
        ),
        (
            "clipped-to-directions",
            "if optimizer.clip_norm is not None and optimizer.clip_norm < CLIP_NORM:",
            "if False:",
            "steps are not directions and nothing else",
        ),
        (
            "pull-unbounded",
            "if optimizer.lr * job.proximal >= 1:",
            "if False:",
            "no step overshoots where it is drawn to",
        ),
        (
            "schedule-that-rises",
            "if isinstance(schedule, CosineDecay) and schedule.lowest > lr:",
            "if False:",
            "no schedule rises",
        ),
        (
            "schedule-that-fades",
            "if lowest < FADING * lr:",
            "if False:",
            "no step of a round counts for nearly all",
        ),
        (
            "momentum-that-grows",
            "if not optimizer.momentum < 1:",
            "if False:",
            "the first step is not multiplied",
        ),
        (
            "dampening-that-multiplies",
            "if not 0 <= optimizer.dampening <= DAMPENING:",
            "if False:",
            "the last step is not multiplied",
        ),
        (
            "few-steps-of-adam",
            "if steps < ADAM_STEPS:",
            "if False:",
            "an owner's contribution is no vector of signs",
        ),
        (
            "slow-server",
            "if not least <= strategy.lr <= most:",
            "if False:",
            "two rounds do not start from almost the same model",
        ),
        (
            "adaptive-strategies-that-stand-still",
            "if pull < strategy.tau * (1 - _ROUNDING):",
            "if False:",
            "nor do they with an adaptive strategy",
        ),
        (
            "rates-that-stand-still",
            "LEAST_LR[kind] * (1 - _ROUNDING) <= pace",
            "0 < pace",
            "nor do they with owners' rates",
        ),
    ),
    *_in(
        "charter/rules.py",
        "tests/charter/test_jobs.py",
        (
            "few-rows-a-step",
            "if job.batch_size < limits.min_batch:",
            "if False:",
            "no step is of fewer rows than the charter says",
        ),
        (
            "few-rows-a-round",
            "(rows := rows_that_count(job)) < least:",
            "(rows := rows_that_count(job)) < 0:",
            "enough rows count in a contribution",
        ),
        (
            "two-sizes-of-batches",
            "if batches.setdefault(job.data, job.batch_size) != job.batch_size:",
            "if False:",
            "no owner has rows for one of two jobs alone",
        ),
        (
            "two-ways-to-count",
            "if job.weights != other.weights:",
            "if False:",
            "two means are not two sums of the same contributions",
        ),
        (
            "two-lengths-of-gradients",
            "if job.optimizer.clip_norm != other.optimizer.clip_norm:",
            "if False:",
            "a contribution is as long, by the others, in all jobs",
        ),
        (
            "job-over-the-charters-rounds",
            "if job.rounds > limits.rounds:",
            "if False:",
            "no job has more rounds than the charter in all",
        ),
        (
            "rows-without-buckets",
            'if job.weights == "rows" and not limits.row_buckets:',
            "if False:",
            "exact numbers of rows are told to nobody",
        ),
        (
            "one-name-for-two-jobs",
            "if job.name in names:",
            "if False:",
            "a name is that of one job",
        ),
    ),
    *_in(
        "worker/fitting.py",
        "tests/worker/test_whole_batches.py",
        (
            "one-batch-for-all",
            "if rows < FEWEST_BATCHES * batch_size:",
            "if False:",
            "no contribution is of fewer than two whole batches",
        ),
    ),
    *_in(
        "worker/data/batches.py",
        "tests/worker/test_whole_batches.py",
        (
            "part-of-a-batch",
            "[: rows - rows % batch_size]",
            "",
            "all steps are of equally many rows",
        ),
    ),
    *_in(
        "worker/data/salts.py",
        "tests/node/study/test_member.py tests/worker/test_whole_batches.py",
        (
            "order-of-another-job",
            '_STEPS + job + number.to_bytes(8, "big")',
            '_STEPS + number.to_bytes(8, "big")',
            "no two jobs take rows in the same order",
        ),
        (
            "order-that-is-known",
            "hmac.digest(salt, message,",
            'hmac.digest(b"", message,',
            "nobody but its owner knows in which order rows are taken",
        ),
    ),
    *_in(
        "node/setup.py",
        "tests/node/test_rehearsals.py",
        (
            "known-salt-at-a-real-tee",
            'if use.unsafe_salt is not None and any(entry.tee != "simulated" for entry in charter.reference):',
            "if False:",
            "what chooses rows is known in rehearsals only",
        ),
    ),
)

_AGGREGATOR: Final = (
    *_in(
        "aggregation/dominance.py",
        "tests/aggregation/test_dominance.py",
        (
            "longest-counts-in-full",
            "reverse=True)[floor - 1]",
            "reverse=True)[0]",
            "none counts for more than the floor-th largest",
        ),
        (
            "levelled-by-the-shortest-of-the-longest",
            "reverse=True)[floor - 1]",
            "reverse=True)[floor - 2]",
            "floor owners are as long as the longest",
        ),
        (
            "levelled-above-the-clip",
            "min(most, sorted(",
            "max(0.0, sorted(",
            "none counts for more than the clip",
        ),
        (
            "nothing-scaled-down",
            "1.0 if norm <= bound else bound / norm",
            "1.0",
            "what is longer than the bound is scaled down to it",
        ),
    ),
    *_in(
        "aggregator/collection.py",
        "tests/aggregator/test_protocol.py tests/aggregator/test_collection.py",
        (
            "clip-unchecked",
            "if not found <= declared * (1 + _DOUBT):",
            "if False:",
            "no contribution is longer than its owner declared",
        ),
        (
            "empty-contribution",
            "if not update.norms[0]:",
            "if False:",
            "a contribution that hides nobody is not added",
        ),
        (
            "commitment-unchecked",
            "if update.commitment != answer.commitment:",
            "if False:",
            "a contribution is the one that was committed to",
        ),
        (
            "one-dominates",
            "bound_of(norms, floor=self._limits.floor, clip=clip)",
            "bound_of(norms, floor=1, clip=clip)",
            "no contribution counts for more than the floor-th largest",
        ),
        (
            "too-few-left",
            "if len(self.answers) < self._limits.floor:",
            "if False:",
            "a round of fewer than the floor is void",
        ),
    ),
    *_in(
        "aggregator/bodies.py",
        "tests/aggregator/test_protocol.py tests/aggregator/test_bodies.py",
        (
            "norm-of-a-part",
            "if self._seen < len(self.vector):",
            "if False:",
            "a contribution that has not come in full has no norm",
        ),
        (
            "job-unchecked",
            "self.agreed = jobs.agreed(job, charter=self._charter)",
            "self.agreed = self._charter.jobs[0]",
            "a job that is none of the charter's is refused before its model is read",
        ),
        (
            "first-model-unchecked",
            'check(self.vector, length=len(self.vector), what="the model that the job starts from")',
            "pass",
            "a job starts from a model that is finite",
        ),
        (
            "model-beyond-its-plan",
            "if layout.nbytes > bytes_of_plan(job.plan):",
            "if False:",
            "no model has more memory than the charter's plan is for",
        ),
        (
            "job-beside-the-one-that-runs",
            "if self._running is not None:",
            "if False:",
            "beside a job that runs no other has memory",
        ),
        (
            "refused-job-keeps-its-place",
            "            self.data = bytearray()\n",
            "            pass\n",
            "a job that is refused holds up no other while the rest of it arrives",
        ),
    ),
    *_in(
        "aggregator/bodies.py",
        "tests/aggregator/test_chain_exchange.py tests/aggregator/test_bodies.py",
        (
            "records-kept-unchecked",
            "if self.discarded or self.fault is not None:",
            "if self.discarded:",
            "after a record that cannot stand no other has memory",
        ),
        (
            "instances-without-end",
            "if chain.sequence > settled + 1:",
            "if False:",
            "no chain grows by records that anyone can sign",
        ),
        (
            "needless-model-kept",
            "            if self.discarded:\n                return\n            self._left -= len(chunk)",
            "            self._left -= len(chunk)",
            "of several that hand over the model one has memory in the end",
        ),
    ),
    *_in(
        "aggregator/chain_exchange.py",
        "tests/aggregator/test_chain_exchange.py",
        (
            "model-of-any-size",
            "if sizes != asked.sizes:",
            "if False:",
            "no model is read but one that was asked for, of its size",
        ),
        (
            "more-records-than-it-said",
            "if size > CHAIN_BYTES or len(message.records) > asked.last - asked.after:",
            "if size > CHAIN_BYTES:",
            "nobody hands over more records than it said that it has",
        ),
        (
            "one-source-at-a-time",
            "< SOURCES:",
            "< 1:",
            "one member that is slow holds up nobody",
        ),
        (
            "sources-without-end",
            "< SOURCES:",
            "< 1 << 16:",
            "a few members hand over records at once, and no more",
        ),
        (
            "holders-without-end",
            "== HOLDERS:",
            "== 1 << 16:",
            "two members hand over the model at once, and no more",
        ),
        (
            "late-ones-are-asked-again",
            "key=lambda peer: (peer.key in self._owing, not peer.owner)",
            "key=lambda peer: not peer.owner",
            "whoever was late is asked after the others",
        ),
        (
            "parts-without-a-pace",
            "now + min(ANSWER_S, seconds_for(sum(message.records)))",
            "now + ANSWER_S",
            "nobody has a new time for each record",
        ),
        (
            "silent-sources-kept",
            "if each.until is not None and now >= each.until",
            "if False",
            "whoever does not begin to hand over is dropped",
        ),
    ),
    *_in(
        "aggregator/training.py",
        "tests/aggregator/test_training.py tests/aggregator/test_protocol.py",
        (
            "answers-twice",
            "if peer.name not in self._waiting:",
            "if False:",
            "an owner answers once",
        ),
        (
            "declared-over-the-clip",
            "if not (0 < message.norm <= clips[0] and 0 <= message.buffers <= clips[1]):",
            "if False:",
            "nobody declares more than the charter's clips",
        ),
        (
            "commitment-used-again",
            "if message.commitment in self._used:",
            "if False:",
            "a contribution is used once",
        ),
    ),
    *_in(
        "aggregator/releasing.py",
        "tests/aggregator/test_protocol.py",
        (
            "released-without-a-member",
            "return self.members <= self._signatures.keys() and len",
            "return len",
            "nothing is released before all of the cohort have signed",
        ),
        (
            "released-without-a-quorum",
            "return self.members <= self._signatures.keys() and len(self._signatures) >= self._quorum",
            "return self.members <= self._signatures.keys()",
            "nothing is released without a quorum",
        ),
        (
            "signature-of-something-else",
            "            keys.verify(\n                message.signature,",
            "            bool(\n                message.signature) or keys.verify(message.signature,",
            "signatures are verified before they count",
        ),
    ),
    *_in(
        "aggregator/table.py",
        "tests/aggregator/test_table.py",
        (
            "message-of-any-role",
            "if role not in row.roles:",
            "if False:",
            "only owners contribute, and only researchers submit",
        ),
        (
            "message-before-it-joined",
            "if standing not in row.standings:",
            "if False:",
            "nobody says anything before it has the newest records",
        ),
        (
            "message-in-any-phase",
            "if phase not in row.phases:",
            "if False:",
            "what comes too late is not used",
        ),
    ),
    *_in(
        "aggregator/protocol.py",
        "tests/aggregator/test_protocol.py",
        (
            "refusals-without-end",
            "elif peer.refused >= REFUSALS:",
            "elif False:",
            "a member that is refused again and again is dropped",
        ),
        (
            "job-by-any-role",
            '            case Submit() if peer.joined and peer.member.role == "researcher":\n                return',
            "            case Submit() if peer.joined:\n                return",
            "only researchers submit jobs",
        ),
        (
            "numbers-used-up",
            "min(message.round, known + LEAP)",
            "message.round",
            "no member can use up the numbers of rounds",
        ),
        (
            "job-past-the-budget",
            "if wanted > left:",
            "if False:",
            "a job asks for no more rounds than the charter has left",
        ),
        (
            "turns-without-end",
            "if other is peer or self._in_vain[other.key] <= self._in_vain[peer.key] + 1:",
            "if True:",
            "no researcher keeps others from submitting by beginning again and again",
        ),
    ),
    *_in(
        "aggregator/round.py",
        "tests/aggregator/test_protocol.py",
        (
            "rounds-below-the-quorum",
            "        if len(owners) < self._quorum or held is None:",
            "        if held is None:",
            "no round begins that could not be signed",
        ),
        (
            "contribution-of-another-length",
            "or body_bytes != self.run.nbytes",
            "",
            "no body is read of another length than the model",
        ),
        (
            "silent-for-as-long-as-it-takes",
            "collecting.deadlines[name] = self.now + self._own.upload_s",
            "collecting.deadlines[name] = self.now + 3600.0",
            "an owner that does not begin to contribute is dropped soon",
        ),
    ),
)

_DOOR: Final = (
    *_in(
        "attest/listed.py",
        "tests/attest/test_listed.py",
        (
            "listed-or-not",
            "if listed < 1:",
            "if False:",
            "an aggregator of software that the charter does not list says so",
        ),
    ),
    *_in(
        "enclave/setup.py",
        "tests/enclave/test_setup.py",
        (
            "starts-unlisted",
            "check_listed(attester.evidence(bytes(REPORT_DATA_BYTES)), reference=charter.reference)",
            "pass",
            "an aggregator that all members would refuse does not start",
        ),
        (
            "starts-unsigned",
            "check_signed(charter, signatures=read_signatures(folder))",
            "pass",
            "an aggregator whose charter lacks signatures says so",
        ),
    ),
    *_in(
        "enclave/server.py",
        "tests/enclave/test_server.py",
        (
            "connections-of-one-member",
            "own=_EACH,",
            "own=1 << 16,",
            "one member has four connections at most",
        ),
        (
            "places-beyond-each-one's",
            "common=0,",
            "common=1 << 16,",
            "one member has four connections at most",
        ),
        (
            "strangers-in-a-study",
            "elif connection.peer not in self._members:",
            "elif False:",
            "only members of the charter take part",
        ),
        (
            "sessions-at-an-aggregator",
            'if hello.purpose != "study":',
            "if False:",
            "an aggregator takes no sessions",
        ),
    ),
    *_in(
        "enclave/hub.py",
        "tests/enclave/test_hub.py",
        (
            "outbox-without-end",
            "return len(self.outbox) > _MESSAGES or sum(outgoing.large for outgoing in self.outbox) > _BODIES",
            "return False",
            "a member that does not read holds no more than a few bodies in memory",
        ),
        (
            "two-connections-take-part",
            'before.end("the same member has connected again")',
            "pass",
            "of one member's connections one takes part",
        ),
    ),
    *_in(
        "enclave/connection.py",
        "tests/enclave/test_server.py",
        (
            "proofs-without-end",
            "self._challenges -= 1",
            "pass",
            "nobody has an instance prove itself without end",
        ),
        (
            "time-for-what-was-claimed",
            "seconds_for(arrived, least=self._hub.upload_s)",
            "seconds_for(1 << 40, least=self._hub.upload_s)",
            "whoever claims much and sends little is dropped soon",
        ),
    ),
    *_in(
        "net/listener.py",
        "tests/net/test_listener.py",
        (
            "listener-without-shares",
            "if shares.take(who):",
            "if shares.take(who) or True:",
            "each peer has so many connections and no more",
        ),
        (
            "strangers-served",
            "if known else (self._unknown, source)",
            "if peer else (self._unknown, source)",
            "a peer whose key is not known is closed on",
        ),
    ),
    *_in(
        "net/shares.py",
        "tests/net/test_shares.py",
        (
            "share-without-end",
            "or common < self._common",
            "or True",
            "beyond its own places, nobody takes more than there are in common",
        ),
        (
            "places-without-end",
            "if there_is and self._held.total() < self._most:",
            "if there_is:",
            "strangers together take no more places than there are for them",
        ),
    ),
    *_in(
        "net/handshakes.py",
        "tests/net/test_handshakes.py",
        (
            "late-handshakes",
            "self._door.late(monotonic()).items()",
            "{}.items()",
            "a handshake has its time, and no more",
        ),
        (
            "full-of-handshakes",
            'if loser is not None:\n                self._end(loser, "others needed its place")',
            "if loser is not None:\n                pass",
            "there are so many handshakes at a time and no more",
        ),
    ),
    *_in(
        "net/door.py",
        "tests/net/test_door.py",
        (
            "door-without-end",
            "if len(self._places) > self._size else None",
            "if False else None",
            "there are so many handshakes at a time and no more",
        ),
    ),
    *_in(
        "net/tls.py",
        "tests/net/test_handshakes.py",
        (
            "tls-records-without-end",
            " or self._records == _RECORDS",
            "",
            "a handshake has so many records and no more",
        ),
        (
            "another-protocol",
            "if secured.selected_alpn_protocol() != ALPN:",
            "if False:",
            "whoever speaks another protocol over TLS is not served",
        ),
    ),
    *_in(
        "net/identity.py",
        "tests/net/test_identity.py",
        (
            "key-that-others-read",
            "st_mode & 0o077",
            "st_mode & 0",
            "a private key that others may read is not used",
        ),
        (
            "key-born-readable",
            "return os.open(path, flags, 0o600)",
            "return os.open(path, flags, 0o644)",
            "a private key is a private file from the first moment",
        ),
        (
            "expired-identity",
            "if moment > identity.not_after:",
            "if False:",
            "an identity that has expired is not used",
        ),
        (
            "another-key's-certificate",
            "if not matches:",
            "if False:",
            "an identity's certificate is for its key",
        ),
    ),
)

_ATTESTATION: Final = (
    *_in(
        "net/attested.py",
        "tests/net/test_attested.py",
        *(
            (f"unbound-{field}", f'        "{field}": {value},\n', "", f"a proof is about this connection's {field}")
            for field, value in (
                ("nonce", "nonce"),
                ("role", "policy.role"),
                ("charter", "policy.charter.digest"),
                ("name", "name"),
                ("server", "server"),
                ("client", "client"),
                ("configuration", "policy.configuration"),
            )
        ),
        (
            "mismatches-forgotten",
            "        if mismatches:\n",
            "        if False:\n",
            "a proof about something else is refused although its evidence is acceptable",
        ),
        (
            "demands-forgotten",
            "    if unmet:\n        raise UnacceptableError(unmet)\n    return verified",
            "    return verified",
            "acceptable evidence is refused where the policy asks for more",
        ),
        (
            "tee-renamed",
            "if transcript.tee != evidence.tee:",
            "if False:",
            "a proof and its evidence are of one kind of TEE",
        ),
        (
            "simulated-accepted",
            'if evidence.tee == "simulated" and not policy.accept_simulated:',
            "if False:",
            "a simulated TEE is accepted only where that is asked for",
        ),
        (
            "rolled-back",
            "if found_sequence < sequence or (",
            "if (",
            "an instance's ledger is no older than what was seen",
        ),
        (
            "forked",
            " or (found_sequence == sequence and found_head != head)",
            "",
            "an instance's ledger goes on from the record that was seen",
        ),
        (
            "another-instance-later",
            "ledger_sequence=new.ledger_sequence) != new:",
            "ledger_sequence=new.ledger_sequence) is None:",
            "a later proof on a connection is the same instance's",
        ),
        (
            "charter-out-of-time",
            "if not policy.charter.not_before <= now <= policy.charter.not_after:",
            "if False:",
            "a charter holds for its time",
        ),
    ),
    *_in(
        "attest/verifier.py",
        "tests/attest/test_verifier.py",
        (
            "evidence-unbound",
            "if len(report_data) != REPORT_DATA_BYTES or not compare_digest(claims.report_data, report_data):",
            "if len(report_data) != REPORT_DATA_BYTES:",
            "evidence was made for this transcript",
        ),
        (
            "appraised-and-forgotten",
            "    if failures:\n        raise UnacceptableError(failures)\n    return Verified",
            "    return Verified",
            "evidence for another transcript is refused although the reference accepts it",
        ),
        (
            "endorsements-for-all",
            'if evidence.tee != "snp" and evidence.endorsements:',
            "if False:",
            "evidence has one form",
        ),
    ),
    *_in(
        "attest/transcript.py",
        "tests/attest/test_transcript.py",
        (
            "transcript-of-any-form",
            "if transcript.encode() != data:",
            "if False:",
            "a transcript has one form",
        ),
        (
            "part-of-the-transcript",
            "return hashlib.sha512(self.encode()).digest()",
            "return hashlib.sha512(self.encode()[:-34]).digest()",
            "evidence is about all of the transcript",
        ),
    ),
    *_in(
        "attest/appraisal.py",
        "tests/attest/test_appraisal.py",
        (
            "debug-sgx",
            '    if claims.debug:\n        yield "it is a debug enclave',
            '    if False:\n        yield "it is a debug enclave',
            "a debug enclave is never accepted",
        ),
        (
            "debug-snp",
            '    if claims.debug:\n        yield "its guest policy allows debugging',
            '    if False:\n        yield "its guest policy allows debugging',
            "a guest that its host may debug is never accepted",
        ),
        (
            "any-vmpl",
            "if claims.vmpl != 0:",
            "if False:",
            "a report is of the guest's most privileged level",
        ),
        (
            "any-measurement",
            'if accepted != "any" and found not in accepted:',
            "if False:",
            "only software that is listed is accepted",
        ),
        (
            "any-status",
            "if tcb.status not in floor.allowed_status:",
            "if False:",
            "a platform's TCB status is one that is allowed",
        ),
        (
            "any-advisory",
            "        if unknown:\n",
            "        if False:\n",
            "no advisory applies that is not allowed",
        ),
        (
            "no-crl",
            "if not entry.unsafe_no_revocation:",
            "if False:",
            "without a CRL nothing is accepted unless that is asked for",
        ),
        (
            "committed-tcb-unchecked",
            'for when in ("committed", "launch", "reported"):',
            'for when in ("launch", "reported"):',
            "each of a platform's TCBs is at the floor or over it",
        ),
        (
            "collateral-of-any-age",
            "elif now - issued > most:",
            "elif False:",
            "collateral is no older than is allowed",
        ),
        (
            "any-machine",
            'if accepted != "any" and accepted.isdisjoint(names):',
            "if False:",
            "only machines that are listed are accepted",
        ),
    ),
    *_in(
        "attest/snp/verify.py",
        "tests/attest/test_snp_negative.py",
        (
            "revoked",
            "if crl and certificate.serial in crl.revoked:",
            "if False:",
            "no revoked key vouches for a report",
        ),
        (
            "crl-of-anyone",
            "crl.signed.check(ark.spki)",
            "pass",
            "a CRL is signed by the product's root",
        ),
        (
            "crl-of-another-issuer",
            "if crl.issuer != ark.subject or not ark.signs_crls:",
            "if not ark.signs_crls:",
            "a CRL is of the product whose certificates it is about",
        ),
        (
            "crl-by-a-key-that-signs-none",
            "if crl.issuer != ark.subject or not ark.signs_crls:",
            "if crl.issuer != ark.subject:",
            "a CRL is signed by a key that may sign CRLs",
        ),
        (
            "outdated-crl",
            'spans.append((f"the CRL of {crl.issuer}", crl.this_update, crl.next_update))',
            "pass",
            "a CRL that has run out decides nothing",
        ),
        (
            "any-root",
            "if hashlib.sha256(ark.spki).digest() != root:",
            "if False:",
            "the root's key is the one that is pinned",
        ),
        (
            "certified-by-no-ca",
            "if not issuer.is_ca or subject.issuer != issuer.subject:",
            "if subject.issuer != issuer.subject:",
            "only a CA certifies",
        ),
        (
            "broken-chain",
            "subject.signed.check(issuer.spki)",
            "pass",
            "each certificate is signed by the one above it",
        ),
        (
            "unsigned-report",
            "key.verify(encode_dss_signature(report.r, report.s), report.signed, ec.ECDSA(hashes.SHA384()))",
            "pass",
            "a report is signed by the chip's key",
        ),
        (
            "another-chip",
            'elif not report.masked and report.chip_id != hwid.value.ljust(64, b"\\0"):',
            "elif False:",
            "a certificate is that of the report's chip",
        ),
        (
            "another-tcb's-certificate",
            "        if level != certified:",
            "        if False:",
            "a certificate is for the TCB that the report claims",
        ),
    ),
    *_in(
        "attest/snp/certificates.py",
        "tests/attest/test_snp_negative.py",
        (
            "critical-and-not-understood",
            "if name in found or (critical and name not in understood):",
            "if name in found:",
            "a certificate with a critical extension that is not understood is refused",
        ),
        (
            "any-key-certifies",
            "constraints is None or not self._usage & _KEY_CERT_SIGN",
            "constraints is None",
            "only a key that may sign certificates is a CA's",
        ),
    ),
    *_in(
        "attest/dcap/verify.py",
        "tests/attest/test_dcap_negative.py tests/attest/dcap",
        (
            "another-pce",
            "if bytes(told.platform.pck.pce_id) != published.pce_id:",
            "if False:",
            "the TCB info is about the platform's provisioning enclave",
        ),
        (
            "any-dcap-status",
            "if told.tcb.status not in STATUSES:",
            "if False:",
            "a TCB status that nobody knows is refused",
        ),
        (
            "dcap-at-any-time",
            "published.check_time(now)",
            "pass",
            "collateral holds at the time at which evidence is judged",
        ),
    ),
    *_in(
        "attest/dcap/published.py",
        "tests/attest/test_dcap_negative.py tests/attest/dcap",
        (
            "anyone-signs-tcb-info",
            "if [name.value for name in names] != [_TCB_SIGNER]:",
            "if False:",
            "collateral is signed by Intel's TCB signing key, and not by a platform's",
        ),
        (
            "chain-of-any-form",
            "if not _CERTIFICATES.fullmatch(chain):",
            "if False:",
            "which certificate comes first in a chain is one thing for all who read it",
        ),
    ),
    *_in(
        "attest/dcap/collateral.py",
        "tests/attest/test_dcap_negative.py tests/attest/dcap",
        (
            "field-twice",
            "if len(members) != len(pairs):",
            "if False:",
            "collateral says each thing once",
        ),
        (
            "collateral-without-end",
            "if len(data) > BUNDLE_BYTES:",
            "if False:",
            "collateral that is too long is not looked at",
        ),
    ),
    *_in(
        "attest/ratls.py",
        "tests/attest/test_ratls.py",
        (
            "ratls-unbound",
            "if Quote.parse(quote).report_data != told + bytes(32):",
            "if False:",
            "the quote in a certificate is about its key",
        ),
        (
            "ratls-claims-unbound",
            "if _key_hash(claims) != [_SHA256, key_hash]:",
            "if False:",
            "the claims in a certificate are about its key",
        ),
        (
            "ratls-unsigned",
            "key.verify(der.bits(signature.expect(der.BIT_STRING).content), signed.encoded, ec.ECDSA(kind()))",
            "pass",
            "a certificate is signed by its own key",
        ),
    ),
)

_CHARTER: Final = (
    *_in(
        "charter/encoding.py",
        "tests/charter/test_encoding.py",
        (
            "charter-in-another-form",
            "if charter.encoded != data:",
            "if False:",
            "what an aggregator reads is the one encoding that was signed",
        ),
        (
            "charter-rules-between-values",
            "        _check(charter)",
            "        pass",
            "an encoded charter says nothing that charter.toml could not",
        ),
    ),
    *_in(
        "charter/signatures.py",
        "tests/charter/test_signatures.py",
        (
            "charter-signature-unverified",
            "keys.verify(signature.signature, message=CONTEXT + charter.digest, public_key=signature.public_key)",
            "pass",
            "signatures of a charter are verified",
        ),
        (
            "signature-of-another-charter",
            "if signature.charter != charter.digest:",
            "if False:",
            "a signature is for this charter",
        ),
        (
            "charter-by-another-key",
            "if fingerprint(signature.public_key) != signer.key:",
            "if False:",
            "a signature is by the member that it names",
        ),
        (
            "without-context",
            'CONTEXT: Final = b"cloister charter signature 1\\0"',
            'CONTEXT: Final = b""',
            "no signature made for something else is one of a charter",
        ),
        (
            "owner-unsigned",
            "name in needed.items() if key not in signed)",
            "name in needed.items() if not signed)",
            "all owners have signed a charter",
        ),
    ),
    *_in(
        "charter/signatures.py",
        "tests/charter/test_succession.py",
        (
            "older-charter",
            "if new.serial < old.serial:",
            "if False:",
            "an older charter does not come back",
        ),
        (
            "same-serial",
            "if new.serial == old.serial and new.digest != old.digest:",
            "if False:",
            "a serial names one charter",
        ),
        (
            "supersedes-another",
            "if new.serial == old.serial + 1 and new.supersedes != old.digest:",
            "if False:",
            "the next charter names the one before it",
        ),
        (
            "successor-without-its-owners",
            "owner.key not in signed and owner.id not in remain)",
            "False)",
            "a successor needs the owners of the charter before it",
        ),
        (
            "successor-unsigned",
            "check_signed(new, signatures=signatures, own=own)",
            "pass",
            "a successor is signed by its own owners",
        ),
    ),
    *_in(
        "charter/keys.py",
        "tests/charter/test_signatures.py",
        (
            "ed25519-unverified",
            "key.verify(signature, message)\n",
            "pass\n",
            "members' signatures are verified",
        ),
    ),
)

_WORKER: Final = (
    *_in(
        "worker/guards/call.py",
        "tests/worker/test_guards.py",
        (
            "indices-out-of-bounds",
            "if low <= least and greatest < high:",
            "if low <= least:",
            "no index leads out of a tensor",
        ),
        (
            "negative-indices",
            "if low <= least and greatest < high:",
            "if greatest < high:",
            "no index leads out of a tensor",
        ),
        (
            "any-shape",
            "if list(self.tensor(argument).shape) != list(shape):",
            "if False:",
            "tensors are as large as a kernel takes them to be",
        ),
        (
            "gaps",
            "if value is not None and not value.is_contiguous():",
            "if False:",
            "kernels that take no notice of strides get none",
        ),
    ),
    *_in(
        "worker/guards/embeddings.py",
        "tests/worker/test_guards.py",
        (
            "offsets-that-fall",
            "int(offsets[0]) != 0 or bool((offsets[1:] < offsets[:-1]).any())",
            "int(offsets[0]) != 0",
            "bags begin one after another",
        ),
        (
            "offsets-past-the-end",
            'call.within("offsets", 0, count + 1)',
            "pass",
            "bags lie within their indices",
        ),
    ),
    *_in(
        "worker/calls.py",
        "tests/worker/test_calls.py tests/worker/test_call_checks.py tests/worker/test_uninitialised.py",
        (
            "guards-not-asked",
            "    if op.guard:\n        _guard(op, args, kwargs)\n",
            "",
            "hostile arguments are refused before a kernel runs",
        ),
        (
            "room-not-asked",
            "store.check_room(nbytes=nbytes, ids=call.outs)",
            "pass",
            "a session holds no more than it may",
        ),
        (
            "forms-unchecked",
            "    call_checks.check(op, args, kwargs)\n",
            "",
            "calls that would change an object's shape are refused",
        ),
        (
            "uninitialised-memory",
            "uninitialised.zero(returned)",
            "pass",
            "nothing comes out that nobody wrote",
        ),
        (
            "half-done",
            "undoing.put_back(kept)",
            "pass",
            "what fails has no effect",
        ),
    ),
    *_in(
        "worker/call_checks.py",
        "tests/worker/test_call_checks.py",
        (
            "shape-changed",
            "if torch.Tag.inplace_view in op.overload.tags and op.name != _KEEPS_SHAPE:",
            "if False:",
            "no call changes an object's shape",
        ),
        (
            "out-that-grows",
            'if made.shape != named["out"].shape:',
            "if False:",
            "no call makes an object grow",
        ),
    ),
    *_in(
        "worker/store.py",
        "tests/worker/test_store.py",
        (
            "memory-limit",
            "fits = self.nbytes + nbytes <= self.memory_bytes",
            "fits = True",
            "a session holds no more memory than it may",
        ),
        (
            "object-limit",
            "if len(self.held) + new > self.limit:",
            "if False:",
            "a session holds no more objects than it may",
        ),
    ),
    *_in(
        "worker/flatten.py",
        "tests/worker/test_flatten.py",
        (
            "clip-that-clips-nothing",
            "if found <= limit * (1 - _DOUBT):\n        return vector",
            "if found:\n        return vector",
            "a delta is scaled down to the clip",
        ),
    ),
    *_in(
        "tensor/results.py",
        "tests/tensor/test_results.py",
        (
            "larger-than-foretold",
            "if sum(tensor.nbytes for tensor in there) > nbytes:",
            "if False:",
            "no result is larger than was foretold",
        ),
    ),
)

_WIRE: Final = (
    *_in(
        "wire/frames.py",
        "tests/wire/test_messages.py",
        (
            "header-without-end",
            "if header_bytes > HEADER_BYTES:",
            "if False:",
            "no header is longer than the limit",
        ),
        (
            "body-without-end",
            "if body_bytes > BODY_BYTES:",
            "if False:",
            "no body is longer than the limit",
        ),
        (
            "another-version",
            "if version != VERSION:",
            "if False:",
            "another version of the protocol is refused",
        ),
    ),
    *_in(
        "wire/sessions.py",
        "tests/wire/test_messages.py",
        (
            "commands-without-end",
            "Meta(max_length=COMMANDS)",
            "Meta(max_length=1 << 40)",
            "a message has so many commands and no more",
        ),
        (
            "arguments-without-end",
            "args: Annotated[list[Argument], Meta(max_length=ARGUMENTS)]",
            "args: list[Argument]",
            "an operation has so many arguments and no more",
        ),
    ),
    *_in(
        "wire/rounds.py",
        "tests/wire/test_messages.py",
        (
            "records-without-end",
            "Meta(ge=1, le=RECORD_BYTES)",
            "Meta(ge=1)",
            "a record is no longer than the limit",
        ),
    ),
)

_PLANS: Final = (
    *_in(
        "plans/following.py",
        "tests/plans/test_look.py tests/plans/test_following.py",
        (
            "look-places-mixed",
            "if place and joint.columns and",
            "if False and",
            "rows that are weighted by their place are told",
        ),
        (
            "look-places-of-views",
            "place = facts.place or value.own.place",
            "place = facts.place",
            "what is written to one entry differs by place",
        ),
        (
            "look-conditions",
            "if asked and others:",
            "if False:",
            "rows that count by a condition are told",
        ),
        ("look-pairs", "if pairs and any", "if False and any", "rows that are compared with each other are told"),
        (
            "look-no-rule",
            "            call.tell(Concern.UNKNOWN)\n            return unknown",
            "            return unknown",
            "an operation without a rule is not understood",
        ),
        (
            "look-stranger",
            "self.found.unknown |= self._bit(",
            "self._bit(",
            "an operation that no worker runs makes all results unknown",
        ),
        ("look-values-without-end", "+ line.makes > VALUES", "+ line.makes < 0", "a look follows so many values"),
        ("look-names-without-end", "if self._named > NAMED:", "if False:", "a look follows so many arguments"),
    ),
    *_in(
        "plans/layout.py",
        "tests/plans/test_layout.py",
        (
            "look-order-of-factors",
            "    if size(left) == size(right):",
            "    if size(left) == size(right):\n        return left\n    if False:",
            "rows by steps and steps by rows do not meet entry by entry",
        ),
    ),
    *_in(
        "plans/rules/picking.py",
        "tests/plans/test_following.py",
        (
            "look-select",
            "    if across_rows(value, at):\n        call.uneven(Concern.PICK, value)\n    return [Made(dims[:at]",
            "    return [Made(dims[:at]",
            "a row that is selected is told",
        ),
        (
            "look-index-counts",
            "if index.counts and dims[place] == (ROWS,):",
            "if dims[place] == (ROWS,):",
            "only an index that is each row's own number leaves rows as they are",
        ),
        (
            "look-sums-by-key",
            '    if columns:\n        call.tell(Concern.FILTER, "it adds',
            '    if False:\n        call.tell(Concern.FILTER, "it adds',
            "sums by a key of the rows are told",
        ),
    ),
    *_in(
        "plans/look.py",
        "tests/plans/test_look.py",
        (
            "look-all-results",
            "averages = all(",
            "averages = any(",
            "a look that finds averages has proved it of every result",
        ),
    ),
    *_in(
        "plans/results.py",
        "tests/plans/test_look.py",
        (
            "look-rows-handed-out",
            "return not self.concerns and not self.by_row",
            "return not self.concerns",
            "a result with an entry for each row is no average",
        ),
    ),
)

_MEMORY: Final = (
    *_in(
        "node/study/data_memory.py",
        "tests/node/study/test_data_memory.py",
        ("memory-of-another", "if whose != memory.hex():", "if False:", "a second memory of a data set is refused"),
        ("memory-unmarked", "if not each.unsafe_unmarked:", "if False:", "a data set is marked as its memory's"),
        (
            "content-from-before",
            "if known is not None and now ==",
            "if known is not None or now ==",
            "a file that has changed is read again",
        ),
        (
            "content-of-an-archive",
            "found.st_mtime_ns, found.st_ctime_ns, found.st_ino, place)",
            "found.st_mtime_ns, 0, 0, place)",
            "a file that has changed is read again, whatever time it says",
        ),
    ),
    *_in(
        "node/study/remembered.py",
        "tests/node/study/test_data_memory.py",
        (
            "memory-by-content",
            "self._paths.setdefault(entry.path, entry.data),",
            "entry.data,",
            "a data set stays what it was, whatever its file and its tags are",
        ),
        (
            "budget-by-name",
            "return sum(self._spent.get(name, 0) for name in self.same(data))",
            "return self._spent.get(data, 0)",
            "what was spent counts on under other tags",
        ),
        (
            "salt-by-name",
            "next((salt for name, salt in self._salts.items() if name in names), None)",
            "self._salts.get(data)",
            "rows are ordered by one secret under all tags",
        ),
    ),
    *_in(
        "node/study/journal.py",
        "tests/node/study/test_data_memory.py",
        (
            "closed-for-others",
            "        if self._users <= 0:\n            self._opened.close()",
            "        self._opened.close()",
            "records stay open while somebody uses them",
        ),
    ),
    *_in(
        "node/study/remembered.py",
        "tests/attacks/test_differing_cohorts.py",
        (
            "near-models-are-others",
            "and near(own.sketch, seen[0].sketch)",
            "and False",
            "a model that is the same but for rounding is no other",
        ),
        (
            "near-models-of-a-chain",
            "any(each.charter != own.charter and",
            "any(",
            "within a chain a model is itself alone",
        ),
    ),
    *_in(
        "node/study/identities.py",
        "tests/attacks/test_rotated_keys.py",
        ("listed-anew", "if known is not None and known != listed:", "if False:", "an organisation keeps its id"),
        (
            "id-of-another",
            "if pairs and (owner.id, owner.key) not in pairs and not in_line:",
            "if False:",
            "an id is handed on by the successor of a charter, and by nothing else",
        ),
        (
            "key-with-another-id",
            "if any(key == owner.key and of != owner.id for of, key in pairs):",
            "if False:",
            "a key has the id that it had",
        ),
    ),
    *_in(
        "charter/signatures.py",
        "tests/attacks/test_rotated_keys.py",
        (
            "id-to-another-name",
            "if names.get(owner.id, owner.name) != owner.name:",
            "if False:",
            "an id keeps its name",
        ),
    ),
    *_in(
        "node/study/studied_data.py",
        "tests/node/study/test_data_memory.py tests/node/study/test_member.py",
        (
            "changed-since-a-void-round",
            "if any(entry.content != content for entry in self._records.trained_on(seen, data)):",
            "if False:",
            "data that has changed is not contributed from again on one model",
        ),
        (
            "counted-otherwise",
            "if now != then:",
            "if False:",
            "the means of a data set are added up alike",
        ),
        (
            "salt-unwritten",
            "self._records.draw(Salted(self._charter, data, known))",
            "pass",
            "a data set has one secret, for good, which is on the disk before it is used",
        ),
        (
            "salt-another-each-time",
            "known = self._records.salt(data)",
            "known = None",
            "rows are chosen once for all jobs",
        ),
    ),
    *_in(
        "node/study/member.py",
        "tests/node/study/test_data_memory.py tests/node/study/test_member.py",
        (
            "changed-on-the-way",
            "if begun.seen is None or self._data.unchanged(begun.data, seen=begun.seen) != begun.content:",
            "if False:",
            "data that changes while it is trained on is not contributed from",
        ),
    ),
    *_in(
        "node/study/countersigner.py",
        "tests/attacks/test_rotated_keys.py",
        (
            "cohorts-by-keys",
            "frozenset(self._ids[share.member] for share in cohort.shares)",
            "frozenset(share.member for share in cohort.shares)",
            "cohorts are compared by ids, which outlive keys",
        ),
    ),
    *_in(
        "charter/rules.py",
        "tests/charter/test_jobs.py tests/attacks/test_rotated_keys.py",
        (
            "another's-id",
            "if member.id and (member.id in ids",
            "if False and (member.id in ids",
            "an id is one member's",
        ),
        (
            "two-batches-on-one-tag",
            "if batches.setdefault(job.data, job.batch_size) != job.batch_size:",
            "if False:",
            "all jobs on one tag have one batch size",
        ),
    ),
    *_in(
        "node/study/plan_check.py",
        "tests/study/test_study_file.py",
        ("plan-unproved", "if not found.averages:", "if False:", "plans are proved where the charter wants it"),
    ),
    *_in(
        "study/study_file.py",
        "tests/study/test_study_file.py",
        ("other-plans", "if plans.keys() != wanted:", "if False:", "a study file's plans are its jobs'"),
        (
            "another-first-model",
            "if vector is not None and describe(found.parts, found.constants, vector) != charter.limits.first_model:",
            "if False:",
            "a study file's first model is its charter's",
        ),
    ),
    *_in(
        "study/study_file.py",
        "tests/study/test_study_file.py",
        (
            "tensors-of-no-plan",
            "if held.get(name) != told.get(name))",
            "if False)",
            "a study file's tensors are its plans'",
        ),
        (
            "tensors-of-no-recipe",
            "if told.get(name) != drawn.get(name))",
            "if False)",
            "a study file's tensors are its recipe's",
        ),
        ("steering-tensor", "if not is_visible(name):", "if False:", "no tensor's name steers a terminal"),
    ),
    *_in(
        "study/study_page.py",
        "tests/study/test_study_file.py",
        (
            "lines-as-they-come",
            "[visible(line) for line in _page(study, code=code)]",
            "[line for line in _page(study, code=code)]",
            "each line of a page is one, and steers no terminal",
        ),
        ("text-unmarked", 'f"  | {line}"', 'f"{line}"', "researchers' words look like nothing of the page"),
        ("drawn-unchecked", "if study.drawn:", "if study.charter.recipe:", "a page says what was drawn, and what not"),
    ),
    *_in(
        "study/study_diff.py",
        "tests/study/test_study_file.py",
        (
            "fields-not-compared",
            'yield from _values("charter", content(study.charter))',
            "pass",
            "two study files are compared over all that is signed",
        ),
    ),
    *_in(
        "study/study_warnings.py",
        "tests/study/test_study_file.py",
        (
            "wide-in-small-steps-only",
            "if job.batch_size < seen.widest:",
            "if job.batch_size < min(64, seen.widest):",
            "a layer wider than a step's rows is warned of whatever the batch is",
        ),
    ),
    *_in(
        "charter/summary.py",
        "tests/charter/test_warnings.py tests/study/test_study_file.py",
        (
            "clip-in-few-digits",
            "parameters is at most {exact(limits.clip)}",
            "parameters is at most {limits.clip:g}",
            "limits are told with all their digits",
        ),
        (
            "older-id-unsaid",
            'known = "" if member.id == member.key else',
            'known = "" if True else',
            "an id that is no key is told",
        ),
    ),
    *_in(
        "charter/warnings.py",
        "tests/charter/test_warnings.py",
        ("older-id-unwarned", "if member.id != member.key:", "if False:", "an id that is no key is warned of"),
        ("entry-name-as-it-comes", "{shown(entry.name)}: {hole}", "{entry.name}: {hole}", "a warning is one line"),
    ),
    *_in(
        "charter/names.py",
        "tests/charter/test_charter.py",
        ("invisible-in-a-name", "        and is_visible(text)\n", "", "nothing in a name is invisible"),
        ("name-as-it-comes", "seen = visible(name)", "seen = name", "a name that is shown begins no line"),
    ),
    *_in(
        "wire/text.py",
        "tests/wire/test_text.py",
        (
            "unseen-is-visible",
            "text.isprintable() and not _UNSEEN.search(text)",
            "text.isprintable()",
            "what is drawn as nothing is spelled out",
        ),
        (
            "unprintable-is-visible",
            "text.isprintable() and not _UNSEEN.search(text)",
            "not _UNSEEN.search(text)",
            "escape sequences are spelled out",
        ),
        (
            "any-name-is-plain",
            "name if _PLAIN.fullmatch(name) else ascii(name)",
            "name",
            "a name that can be any text looks like nothing else",
        ),
    ),
    *_in(
        "tensor/plan/encoding.py",
        "tests/plans/test_words.py",
        ("steering-plan", "if not is_visible(text):", "if False:", "no name in a plan steers a terminal"),
    ),
    *_in(
        "plans/words.py",
        "tests/plans/test_words.py",
        (
            "operation-unquoted",
            'if "_backward" in name else quoted(name)',
            'if "_backward" in name else name',
            "an operation's name looks like nothing beside it",
        ),
    ),
    *_in(
        "net/log_lines.py",
        "tests/net/test_log_lines.py",
        (
            "log-as-it-comes",
            "return visible(super().formatMessage(record))",
            "return super().formatMessage(record)",
            "no peer writes a line of the log",
        ),
    ),
    *_in(
        "models/leaning.py",
        "tests/first_model/test_traps.py",
        ("leaning-on-average", "levels.mean() < MEAN - _CHANCE / count**0.5", "False", "units that lean are told"),
        ("negative-biases", "(biases < 0.0).mean() >= NEGATIVE and", "False and", "biases all negative are told"),
    ),
    *_in(
        "cli/node.py",
        "tests/cli/test_node.py",
        ("session-as-it-comes", 'visible(each.last or "-")', 'each.last or "-"', "an executor steers no terminal"),
    ),
    *_in(
        "study/progress.py",
        "tests/study/test_screen.py",
        ("progress-as-it-comes", "visible(str(line))", "str(line)", "no peer writes a line on the researcher's screen"),
    ),
    *_in(
        "ledger/first_model.py",
        "tests/node/study/test_first_model.py",
        (
            "not-as-drawn",
            "if describe(job.parts, job.constants, drawn_vector(charter, job)) != charter.limits.first_model:",
            "if False:",
            "a first model is what its recipe draws",
        ),
    ),
    *_in(
        "aggregator/training.py",
        "tests/aggregator/test_protocol.py",
        (
            "rows-exactly",
            "if message.examples not in (self._limits.min_examples, *self._limits.row_buckets):",
            "if False:",
            "rows are told in buckets, of which the least is the fewest that the charter wants",
        ),
    ),
)

MUTANTS: Final = (
    *_LEDGER,
    *_JOBS,
    *_MEMORY,
    *_OWNER,
    *_AGGREGATOR,
    *_DOOR,
    *_ATTESTATION,
    *_CHARTER,
    *_WORKER,
    *_WIRE,
    *_PLANS,
)
"""All of them."""
