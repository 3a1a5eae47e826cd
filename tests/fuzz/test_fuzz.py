"""The fuzzer finds planted faults and makes them small; what it found once stays mended; some new inputs each time."""

import json
from itertools import islice
from pathlib import Path

import planted_faults
import pytest

from tests.fuzz import codecs, fuzz, mutators, targets
from tests.fuzz.judge import complaint
from tests.fuzz.minimise import minimised
from tests.fuzz.sandbox import Limits, read_input

pytestmark = pytest.mark.slow

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(folder for folder in CORPUS.glob("*/*") if folder.is_dir())
QUICK = Limits(seconds=0.2, bytes=2**28)
REFUSED = {"image", "checkpoint", "prompts"}  # of some seeds: animations, checkpoints of no known kind
INPUTS = 20  # of each target in `make test`


def found(name, inputs):
    lookup, seeds_of = planted_faults.lookup, planted_faults.seeds_of
    return fuzz.run([name], inputs=inputs, limits=QUICK, tries=15, lookup=lookup, seeds_of=seeds_of)


@pytest.mark.parametrize(
    ("fault", "said", "inputs"),
    [
        ("key_error", "traceback: KeyError", 150),
        ("library_error", "foreign: JSONDecodeError", 60),
        ("allocates", "memory: ", 40),
        ("loops", "slow: ", 8),
        ("dies", "crash: the process ended by SIGSEGV", 8),
    ],
)
def test_run_finds_a_planted_fault_and_makes_its_input_small(fault, said, inputs):
    findings = [finding for finding in found(fault, inputs).findings.values() if finding.what.startswith(said)]
    assert findings
    assert all(len(finding.files.get("list.json", b"")) < len(planted_faults.SEED["list.json"]) for finding in findings)


def test_run_has_no_finding_for_a_reader_that_refuses_in_one_sentence():
    report = found("sound", 20)
    assert (report.inputs["sound"], report.read["sound"], report.findings) == (20, 0, {})


def test_minimised_input_still_has_the_fault_when_no_more_may_be_tried():
    tried = []

    def has_fault(files):
        tried.append(files)
        return b"17" in files.get("a.json", b"")

    small = minimised({"a.json": json.dumps(list(range(10_000))).encode()}, has_fault, tries=10)
    assert len(tried) <= 10
    assert has_fault(small)


def test_minimised_input_of_a_key_error_is_the_one_field_that_it_needs():
    def has_fault(files):
        tree = json.loads(files["a.json"])
        return "name" in tree and "sizes" not in tree

    large = {"a.json": json.dumps({"name": [1, {"x": 2}], "other": list(range(50))}).encode(), "b.json": b"{}"}
    assert minimised(large, lambda files: "a.json" in files and _holds(has_fault, files)) == {"a.json": b'{"name":[]}'}


def _holds(test, files):
    try:
        return test(files)
    except (ValueError, TypeError):
        return False


@pytest.mark.parametrize("name", list(targets.TARGETS))
def test_mutators_make_the_same_inputs_from_the_same_seed(name):
    seeds = targets.TARGETS[name].seeds
    one, again = (list(islice(mutators.stream(seeds(), "0"), 15)) for _ in range(2))
    other = list(islice(mutators.stream(seeds(), "1"), 15))
    assert one == again
    assert one != other


@pytest.mark.parametrize("name", [name for name in targets.TARGETS if name not in REFUSED])
def test_targets_read_what_inputs_are_made_of(name, tmp_path):
    for files in targets.seeds_of(name):
        assert read_input(targets.TARGETS[name].read, files, tmp_path / "input", Limits(seconds=60)) == (None, "")


@pytest.mark.parametrize("suffix", [suffix for suffix in codecs.CODECS if suffix not in (".npz", ".ckpt")])
def test_codec_puts_a_file_that_it_took_apart_together_as_it_was(suffix):
    files = {
        Path(name).suffix: data
        for name in targets.TARGETS
        for seed in targets.seeds_of(name)
        for name, data in seed.items()
    }
    codec = codecs.CODECS[suffix]
    assert codec.join(codec.split(files[suffix])).rstrip(b"\0") == files[suffix].rstrip(b"\0")


def test_error_of_counts_as_ours_only_what_our_own_raise_raised():
    ours = (__file__,)

    def error_of(function):
        try:
            function()
        except Exception as error:
            return complaint(error, ours)

    def refuses():
        raise ValueError("it is broken; copy it again")

    def says_nothing():
        raise ValueError

    def hides():
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError("it is not a readable file") from None

    assert error_of(refuses) is None
    assert error_of(says_nothing).startswith("unclear")
    assert error_of(hides).startswith("memory")
    assert error_of(lambda: int("x")).startswith("foreign: ValueError")
    assert error_of(lambda: [][1]).startswith("traceback: IndexError")


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_corpus_input_that_was_a_finding_is_one_no_more(folder, tmp_path):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    finding, detail = read_input(targets.reader(folder.parent.name), files, tmp_path / "input", Limits())
    assert finding is None, detail


def test_fuzz_of_a_fixed_seed_has_no_finding():
    report = fuzz.run(list(targets.TARGETS), seed=1, inputs=INPUTS)
    assert not report.findings, "\n".join(f"{f.target}: {f.what}\n{f.detail}" for f in report.findings.values())
    assert set(report.inputs.values()) == {INPUTS}
