"""Arguments of the training commands: systems, shipped configs, help, and errors in one sentence."""

import argparse
import logging
import warnings
from pathlib import Path

import pytest

from instant3d.cli.main import main
from instant3d.training import arguments, fit

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"
OURS = ("--model", "--data", "--scenes", "--triplanes")


class Parsers(Exception):
    """Raised in place of parsing, with the parser of each subcommand."""


def options(system, subcommand, monkeypatch):
    """All options of a training command: option -> help."""

    def parse_arguments(self, *_):
        raise Parsers(self._subcommand_parsers)

    monkeypatch.setattr(fit.TrainingCLI, "parse_arguments", parse_arguments)
    with pytest.raises(Parsers) as found:
        fit.main([subcommand, system, "--help"])
    actions = found.value.args[0][subcommand]._actions
    return {action.option_strings[-1]: action.help for action in actions if action.option_strings}


@pytest.mark.parametrize("system", arguments.SYSTEMS)
def test_help_describes_every_option_of_a_system(system, monkeypatch):
    found = options(system, "fit", monkeypatch)
    ours = {option: text for option, text in found.items() if option.startswith(OURS)}
    assert len(ours) > 25
    assert [option for option, text in ours.items() if not text or text == argparse.SUPPRESS] == []


def test_help_names_the_system_and_shows_descriptions_with_defaults(capsys):
    with pytest.raises(SystemExit) as done:
        main(["fit", "stage2", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0
    assert shown.startswith("usage: instant3d fit stage2 [-c CONFIG] ...")
    assert "Side of the input images in pixels" in shown
    assert "Of the perceptual loss (LPIPS with VGG-16). (type: float, default: 2.0)" in shown


def test_config_is_found_by_its_name_in_the_system_before_the_trainers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["-c", "one_gpu", "--config=cpu", "-c=demo", "--data.seed=3"]
    shipped = [CONFIGS / "stage2" / "one_gpu.yaml", CONFIGS / "trainer" / "cpu.yaml", CONFIGS / "stage2" / "demo.yaml"]
    expected = ["-c", str(shipped[0]), f"--config={shipped[1]}", f"-c={shipped[2]}", "--data.seed=3"]
    assert arguments.expand_options(words, "stage2") == expected
    Path("demo").write_text("{}")
    assert arguments.expand_options(["-c", "demo"], "stage2") == ["-c", "demo"]


def test_short_options_are_replaced_by_full_ones_where_a_system_has_them():
    assert arguments.expand_options(["--prompts", "a.txt", "-o=out"], "stage1") == [
        "--data.prompts",
        "a.txt",
        "--scenes.output=out",
    ]
    assert arguments.expand_options(["-o", "out"], "stage2") == ["-o", "out"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "expected stage1, stage2 or direct after `instant3d fit`, got nothing"),
        (["-c", "demo"], "expected stage1, stage2 or direct after `instant3d fit`, got '-c'"),
        (["stage2", "-c", "nowhere"], "there is no file nowhere"),
        (["stage2", "-c", "KEY"], "does not accept option 'model.learning_rat'"),
        (["stage2", "-c", "TYPE"], '"model.betas": Expected a tuple. Got value: hi'),
        (["stage2", "-c", "BROKEN"], "Problems parsing config"),
        (["stage2", "--model.learning_rate=fast"], '"model.learning_rate": Expected a float. Got value: fast'),
    ],
)
def test_invalid_argument_is_one_sentence_and_exit_code_two(words, complaint, tmp_path, capsys):
    bad = {"KEY": "model: {learning_rat: 3}", "TYPE": "model: {betas: hi}", "BROKEN": "model: ["}
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
    words = [str(tmp_path / word) if word in bad else word for word in words]
    assert main(["fit", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("instant3d: error: ")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err


def test_config_that_does_not_exist_is_answered_by_the_names_of_the_shipped_ones(capsys):
    main(["fit", "stage1", "-c", "nowhere"])
    assert (
        "there are 24gb, 48gb, 80gb, consistency, demo, demo_base, demo_cpu, demo_one_gpu, one_gpu_lora, paper, "
        "progressive, warm_start_cpu, warm_start_one_gpu, cpu" in capsys.readouterr().err
    )


def test_help_without_a_system_lists_the_systems(capsys):
    assert main(["predict", "--help"]) == 0
    assert "SYSTEM is one of stage1, stage2, direct." in capsys.readouterr().out


def test_warnings_that_users_cannot_act_on_are_suppressed_and_others_are_shown(recwarn, caplog):
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with arguments.without_library_notes(), caplog.at_level(logging.INFO, logger=log.name):
        log.propagate, before = True, log.propagate
        log.info("💡 Tip: For seamless cloud logging, try installing [litlogger]")
        log.info("GPU available: False")
        log.propagate = before
        warnings.warn("LightningCLI's args parameter is intended to run from within Python like", stacklevel=1)
        warnings.warn("renders are empty", stacklevel=1)
    assert [str(warning.message) for warning in recwarn] == ["renders are empty"]
    assert [record.getMessage() for record in caplog.records] == ["GPU available: False"]
