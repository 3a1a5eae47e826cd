"""Attribution: from a manifest into scenes, painted scenes, shards and caches, and from all of these into one table."""

import json
import re

import no_pool
import pytest
from balls import COLOURS, ball_views
from tiny_sdxl import tiny_sdxl_folder

from data_prep.captions import recolour
from data_prep.execution import process_pool
from data_prep.manifests import attribution
from data_prep.manifests.attribution import Work, gather, markdown
from instant3d import scenes
from instant3d.cli import main as cli
from instant3d.stage1 import cache_builder

ANN = {"license": "CC-BY-4.0", "author": "Ann", "source": "shop", "name": "Red ball", "url": "https://shop.test/1"}
BOB = {"license": "CC-BY-3.0-US", "author": "Bob | [x](y)", "source": "shop", "name": "A <b>ball</b>"}
MADE = {"license": "CC0-1.0", "source": "procedural", "name": "a ball"}


@pytest.fixture
def folder(tmp_path):
    """Four scenes; of the last one nothing is known."""
    for k, credit in enumerate((ANN, BOB, MADE, {})):
        views = ball_views(COLOURS["red"])
        scenes.write(
            tmp_path / "scenes" / f"s{k}", views, caption=f"a red ball {k}", extra={**credit, "split": "train"}
        )
    return tmp_path / "scenes"


def work(credit, count):
    return Work(*(credit.get(key, "") for key in ("license", "source", "author", "name", "url")), scenes=count)


def everything(count=1):
    return [work({}, count), work(BOB, count), work(ANN, count), work(MADE, count)]


def test_attribution_of_scenes_and_of_their_tars_is_the_same(folder, tmp_path, capsys):
    assert gather([folder]) == everything()
    assert cli.main(["pack", str(folder), "-o", str(tmp_path / "tars")]) == 0
    assert gather([tmp_path / "tars"]) == everything()
    assert cli.main(["unpack", str(tmp_path / "tars"), "-o", str(tmp_path / "again")]) == 0
    assert gather([tmp_path / "again", folder]) == everything(2)
    capsys.readouterr()


@pytest.mark.slow
def test_attribution_of_a_recoloured_scene_keeps_author_and_licence(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(process_pool, "run", no_pool.run)
    document = json.loads((folder / "s0" / "transforms.json").read_text()) | {"colors": [["red", 1.0]]}
    (folder / "s0" / "transforms.json").write_text(json.dumps(document))
    assert recolour.main([str(folder), "-o", str(tmp_path / "out"), "--colours", "2"]) == 0
    assert gather([tmp_path / "out"]) == everything(3)
    painted = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("s0*/transforms.json")]
    assert {(content["split"], "painted" in content, "colors" in content) for content in painted} == {
        ("train", False, True),
        ("train", True, False),
    }


@pytest.mark.slow
def test_attribution_of_every_grid_stays_in_a_cache_whose_making_was_interrupted(folder, tmp_path, monkeypatch):
    model = tiny_sdxl_folder(tmp_path / "model")
    monkeypatch.setattr(cache_builder, "MAX_SHARD_ITEMS", 2)

    def interrupt(line):
        if line.startswith("grids: 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_builder.build_cache([folder], model, tmp_path / "cache", batch=2, report=interrupt)
    cache_builder.build_cache([folder], model, tmp_path / "cache", batch=2, report=lambda line: None)
    assert gather([tmp_path / "cache"]) == everything()
    grids = json.loads((tmp_path / "cache" / "index.json").read_text())["grids"]
    assert [grid.get("credit") for grid in grids] == [ANN, BOB, MADE, None]


def test_attribution_takes_fields_from_a_manifest_that_scenes_and_caches_lack(folder, tmp_path):
    row = {
        "id": "other",
        "uid": "s3",
        "file": "x.glb",
        "licence": "by",
        "author": "Cy",
        "name": "Ball",
        "source": "net",
    }
    (tmp_path / "objects.jsonl").write_text(json.dumps(row) + "\n")
    known = {"license": "CC-BY-4.0", "author": "Cy", "name": "Ball", "source": "net"}
    found = gather([folder], [tmp_path / "objects.jsonl"])
    assert sorted(found) == sorted([work(known, 1), work(ANN, 1), work(BOB, 1), work(MADE, 1)])


def test_attribution_names_every_work_under_cc_by_with_author_source_licence_and_link():
    text = markdown([work(BOB, 2), work(ANN, 3), work({**ANN, "name": "Blue ball", "url": ""}, 1), work(MADE, 40)])
    overview, ann = text.partition("### ")[0], text.partition("### shop, [CC-BY-4.0]")[2]
    assert "46 scenes" in overview
    assert "(https://creativecommons.org/licenses/by/4.0/)" in ann.splitlines()[0]
    assert "- **Ann**: [Red ball](https://shop.test/1), Blue ball" in ann.splitlines()
    assert "creativecommons.org/licenses/by/3.0/us/" in text
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in overview.splitlines()[-4:]]
    assert [line[1:] for line in cells if line and "CC0" in line[0]] == [["procedural", "1", "40", "-"]]
    assert "a ball" not in text  # CC0 asks for no list


def test_attribution_table_escapes_markup():
    text = markdown([work(BOB, 1), work({**ANN, "name": "x\n# y", "url": "javascript:alert(1)"}, 1)])
    assert "<b>" not in re.sub(r"\\<", "", text)
    assert "](y)" not in re.sub(r"\\\]", "", text)
    assert "\n# y" not in text
    assert "javascript" not in text
    assert r"Bob \| \[x\](y)" in text


def test_attribution_command_writes_the_table_and_counts_what_names_no_licence(folder, tmp_path, capsys):
    assert attribution.main([str(folder), "-o", str(tmp_path / "CREDITS.md")]) == 0
    assert (tmp_path / "CREDITS.md").read_text() == markdown(everything())
    output = capsys.readouterr()
    assert output.out == f"{tmp_path / 'CREDITS.md'}: 4 scenes\n"
    assert "1 scenes name no licence" in output.err
    assert attribution.main([str(folder)]) == 0
    assert capsys.readouterr().out == markdown(everything())


@pytest.mark.parametrize(("root", "because"), [("nowhere", "does not exist"), ("empty", "neither a scene nor a cache")])
def test_attribution_of_bad_input_is_one_sentence(tmp_path, capsys, root, because):
    (tmp_path / "empty").mkdir()
    assert attribution.main([str(tmp_path / root)]) == 2
    assert because in capsys.readouterr().err.splitlines()[-1]
