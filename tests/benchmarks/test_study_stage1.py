"""The study of stage 1's variants: the commands that it runs, and its table."""

import json

import pytest

from benchmarks import study_stage1
from instant3d.training import fit

NUMBERS = {"renders": {"colour": 1.0, "object": 0.5, "both": 0.5}, "views": {"both": 0.75}, "agreement": 24.5}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Runs the study with its commands recorded, not run; weights and measurements appear as they would."""
    commands, failing = [], set()

    def run(words):
        commands.append(list(words))
        if failing & set(words):
            return False
        if "export" in words:
            folder = study_stage1.Path(words[-1])
            folder.mkdir(parents=True)
            (folder / "model_index.json").write_text("{}")
            if "consistency" in folder.parts:
                (folder / "sampling.json").write_text('{"steps": 4, "sampler": "lcm", "guidance": 1.0}')
        if words[0] == "benchmarks.steps":
            folder, sampler = study_stage1.Path(words[-1]), words[words.index("--samplers") + 1]
            folder.mkdir(exist_ok=True)
            (folder / "steps.json").write_text(json.dumps({f"{sampler} 4 4": NUMBERS}))
        return True

    monkeypatch.setattr(study_stage1, "_run", run)
    run.commands, run.failing, run.output = commands, failing, tmp_path
    run.words = ["--base", "stage1", "--cache", "grids", "--seconds", "90", "-o", str(tmp_path)]
    return run


def test_study_trains_all_variants_alike_but_for_what_they_vary(study, capsys):
    assert study_stage1.main(["demo", "min_snr", "consistency", "words=other", *study.words]) == 0
    fits = [words for words in study.commands if "fit" in words]
    caches = [next(word for word in words if word.startswith("--data.train=")) for words in fits]
    assert caches == ['--data.train=["grids"]'] * 3 + ['--data.train=["other"]']
    varied = ("min_snr.yaml", "consistency.yaml", "--data.train", "--trainer.default_root_dir", "save_dir")
    common = [[word for word in words if word != "-c" and not any(part in word for part in varied)] for words in fits]
    assert common[0] == common[1] == common[2] == common[3]
    assert "--trainer.max_time=00:00:01:30" in common[0]
    assert ["4 of lcm" in line for line in capsys.readouterr().out.splitlines()[2:6]] == [False, False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["min_snr", "zero_terminal_snr", "consistency"])
def test_study_commands_are_accepted_with_every_shipped_variant(variant, study, capsys):
    study_stage1.main([variant, *study.words])
    words = study.commands[0][1:]
    with pytest.raises(SystemExit) as ended:
        fit.main([*words, "--print_config"])
    assert ended.value.code == 0
    assert "base: stage1" in capsys.readouterr().out


def test_study_measures_each_variant_with_its_own_settings(study):
    study_stage1.main(["demo", "consistency", *study.words])
    found = [words[words.index("--samplers") :][:4] for words in study.commands if words[0] == "benchmarks.steps"]
    assert found == [["--samplers", "euler", "--guidance", "5"], ["--samplers", "lcm", "--guidance", "1"]]


def test_study_goes_on_after_a_failure_and_later_does_only_what_is_missing(study, capsys):
    study.failing.add(str(study.output / "demo" / "run"))
    assert study_stage1.main(["demo", "min_snr", *study.words]) == 1
    assert "demo failed." in (study.output / "table.md").read_text()
    study.failing.clear()
    study.commands.clear()
    assert study_stage1.main(["demo", "min_snr", *study.words]) == 0
    assert sum("fit" in words for words in study.commands) == 1
    assert sum("export" in words for words in study.commands) == 1


def test_study_refuses_unknown_and_repeated_variants_in_one_sentence(study, capsys):
    assert study_stage1.main(["nonsense", *study.words]) == 2
    assert study_stage1.main(["demo", "demo", *study.words]) == 2
    assert capsys.readouterr().err.count("benchmarks.study_stage1: error: ") == 2
    assert study.commands == []
