"""The report: its numbers against scenes whose counts are known, its page in a browser, its size, hostile words."""

import json
import math

import browser
import discs
import pytest
import torch

from data_prep.manifests.thumbnails import escaped, script_data, webp
from data_prep.report import report, report_page
from data_prep.report.report_facts import Thumbnail
from instant3d.scenes import pack
from instant3d.scenes.checks import check

EVIL = '<script>document.title="taken"</script><img src=x onerror=alert(1)>'


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "scenes"
    discs.write(folder, "a", caption="a disc", license="CC0-1.0", source="here", radius=4)
    discs.write(folder, "b", caption=EVIL, license="MIT", source=EVIL)
    discs.write(folder, "c", license="MIT")
    (discs.write(folder, "d") / "transforms.json").write_text("{")
    rows = [
        {"id": "x", "file": "x.glb", "reason": EVIL, "kind": "broken"},
        {"id": "y", "reason": "?", "kind": "timeout"},
    ]
    (folder / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [rows[1], *rows]))
    return folder


def test_counts_are_those_of_the_scenes_and_each_failure_counts_once(place):
    facts = report.collect([place], shown=10)
    assert (facts.scenes, facts.views, facts.captioned, facts.without_caption) == (3, 12, 2, ["c"])
    assert facts.licences == {"MIT": 2, "CC0-1.0": 1}
    assert (facts.frames, facts.sizes) == ({"4": 3}, {"24 x 24": 3})
    assert [where.rpartition("/")[2] for where, _ in facts.broken] == ["d"]
    assert sorted(row["id"] for row in facts.rejected) == ["x", "y"]


def test_coverage_is_the_share_of_pixels_that_a_disc_takes(place):
    shown = {thumbnail.id: thumbnail.coverage for thumbnail in report.collect([place], shown=10).shown}
    assert shown["a"] == pytest.approx(math.pi * 4**2 / 24**2, rel=0.05)
    assert shown["b"] == pytest.approx(math.pi * 8**2 / 24**2, rel=0.05)


def test_report_on_tars_is_that_on_folders(place, tmp_path):
    for name in ("d", "failures.jsonl"):
        (place / name).rename(tmp_path / name)
    pack.pack([place], tmp_path / "shards")
    loose, packed = (report.collect([root], shown=10) for root in (place, tmp_path / "shards"))
    assert loose == packed


def test_objects_of_a_manifest_have_a_scene_or_were_rejected_or_neither(place, tmp_path):
    (tmp_path / "objects.jsonl").write_text("".join(json.dumps({"id": name}) + "\n" for name in "abxz"))
    facts = report.collect([place], shown=1, objects=tmp_path / "objects.jsonl")
    assert facts.objects == {"in the manifest": 4, "with a scene": 2, "rejected": 1, "neither": 1}


def test_report_has_both_ends_of_a_ranking(place, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ENDS", 1)
    rows = [{"rank": k, "id": name, "score": 1.0 - k} for k, name in enumerate(["b", "elsewhere", "a", "c"], start=1)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = report.collect([place], shown=1, ranking=tmp_path / "r.jsonl")
    assert [(t.id, t.remark) for t in (*facts.best, *facts.worst)] == [("b", "+0.00"), ("c", "-3.00")]


@pytest.mark.slow
def test_report_page_escapes_hostile_text_in_a_browser(place, tmp_path):
    reports, findings = check.check_scenes([place], jobs=1)
    (tmp_path / "doctor.json").write_text(json.dumps(check.report(reports, findings)))
    arguments = [str(place), "-o", str(tmp_path / "page.html"), "--doctor", str(tmp_path / "doctor.json")]
    assert report.main(arguments) == 0
    with browser.chromium() as running:
        page = running.new_page()
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.goto((tmp_path / "page.html").as_uri())
        assert page.title() == str(place)
        assert page.evaluate("[document.scripts.length, document.images.length]") == [0, 3]
        assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth == 48)")
        text = page.inner_text("body")
    assert wrong == []
    assert text.count(EVIL[:70]) >= 2  # as a caption, a source and a reason; captions are cut
    assert "unreadable (fault)" in text
    assert "Scenes without a caption: 1 of 3" in text


def test_report_page_of_many_large_images_stays_below_two_mebibytes():
    noise = torch.rand(3, 192, 192, generator=torch.Generator().manual_seed(0))
    picture = webp(noise, 192, 95)
    many = [Thumbnail(f"s{k}", "<" * 500, picture, k / 400, "") for k in range(400)]
    rows = [{"id": "&" * 300, "kind": "broken", "reason": "<" * 3000}] * 1000
    counts = report.Counter({f"{'&' * 300}{k}": 1 for k in range(500)})
    numbers = report.Counter({str(k): 1 for k in range(500)})
    ends = {"best": many[:8], "worst": many[-8:]}
    facts = report.ReportFacts(
        400, numbers, counts, counts, counts, 0, ["<" * 300] * 400, [("<" * 300,) * 2] * 99, many, rows, **ends
    )
    text = report_page.page(facts, "many")
    assert 2**20 < len(text.encode()) < 2**21
    assert "more</p>" in text


@pytest.mark.parametrize("text", [EVIL, "</ScRiPt><!--", 'a & b > "c" \'', "\u2028\u2029"])
def test_report_words_are_neither_markup_nor_the_end_of_a_script(text):
    assert not set("<>\"'") & set(escaped(text))
    assert json.loads(script_data({"caption": text})) == {"caption": text}
    assert not set("<>&\u2028") & set(script_data([text]))


@pytest.mark.parametrize(
    ("option", "content", "words"),
    [
        ("--doctor", "[]", "has no list of findings"),
        ("--doctor", None, "instant3d doctor SCENES -o FILE"),
        ("--failures", None, "does not exist"),
        ("--objects", "{", "line 1 is not JSON"),
        ("--ranking", '{"id": "a"}', "line 1 is no place"),
    ],
)
def test_report_input_that_cannot_be_read_is_reported_in_a_sentence(place, tmp_path, capsys, option, content, words):
    if content is not None:
        (tmp_path / "file").write_text(content)
    assert report.main([str(place), "-o", str(tmp_path / "page.html"), option, str(tmp_path / "file")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
