"""Objaverse and Objaverse-XL through the real package, from a server on this machine where much goes wrong."""

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import objaverse
import pandas
import pytest
import requests
from objaverse_stand_in import ONE, XL, Dataset, glb, served, uid, wait_until

from data_prep.manifests import object_manifest
from data_prep.sources.__main__ import main
from instant3d import mesh

ROOT = Path(__file__).parents[3]
LICENCES = ("by", "cc0", "by-nc", "by-sa", "by", "by-nc-sa")


def note(number, licence):
    name = uid(number)
    user = {"username": f"maker{number}"}
    return {
        "uid": name,
        "name": f"Thing {number} \u2028",
        "license": licence,
        "user": user,
        "viewerUrl": f"https://s/{name}",
    }


@pytest.fixture
def dataset(tmp_path):
    things = {
        uid(k): (glb(tmp_path / f"{k}.glb", 0.1 * k + 0.1), note(k, licence)) for k, licence in enumerate(LICENCES)
    }
    made = Dataset()
    made.objaverse(things, {"coffee_table": [uid(0), uid(2)], "bow_(weapon)": [uid(1)], "mug": [uid(4)]})
    return made


@pytest.fixture
def served_dataset(dataset, monkeypatch):
    with served(dataset) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield dataset


@pytest.fixture
def waits(monkeypatch):
    """How long was waited before further tries, without the waiting."""
    waited = []
    monkeypatch.setattr(
        "data_prep.sources.downloads.time.sleep", lambda seconds: waited.append(seconds) if seconds else None
    )
    return waited


def rows(path):
    return {row["id"]: row for row in map(json.loads, path.read_text().split("\n")[:-1])}


def left_out(path):
    return {name: row["kind"] for name, row in rows(path.with_name("objects.failures.jsonl")).items()}


def test_objects_of_lvis_categories_arrive_with_their_words_licences_and_authors(served_dataset, tmp_path, capsys):
    out = tmp_path / "data" / "objects.jsonl"
    assert main(["objaverse", "--lvis", "coffee_table,bow_(weapon)", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 new; not taken: 1 under CC-BY-NC-4.0\n"
    found = rows(out)
    assert list(found) == [uid(0), uid(1)]
    content = served_dataset.files[served_dataset.object_path(uid(0))]
    assert found[uid(0)] == {
        "id": uid(0),
        "file": f"objaverse/hf-objaverse-v1/glbs/000-000/{uid(0)}.glb",
        "uid": uid(0),
        "source": "objaverse",
        "license": "CC-BY-4.0",
        "captions": ["coffee table"],
        "name": "Thing 0 \u2028",
        "author": "maker0",
        "url": f"https://s/{uid(0)}",
        "category": "coffee_table",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    assert (found[uid(1)]["license"], found[uid(1)]["captions"]) == ("CC0-1.0", ["bow"])
    assert served_dataset.objects_asked() == {uid(0): 1, uid(1): 1}  # and not the one under another licence
    (item, _) = object_manifest.find(out.parent)
    assert (item.id, item.caption, item.facts["author"]) == (uid(0), "coffee table", "maker0")
    assert mesh.load(item.path)


@pytest.mark.parametrize(
    ("licences", "taken"),
    [("redistributable", {0, 1, 3, 4}), ("all", {0, 1, 2, 3, 4, 5}), ("cc0, CC-BY-SA-4.0", {1, 3}), ("by-nc-sa", {5})],
)
def test_objaverse_licences_are_filtered_by_the_option(served_dataset, tmp_path, licences, taken):
    out = tmp_path / "objects.jsonl"
    main(["objaverse", "--all", "--licences", licences, "-o", str(out)])
    assert set(rows(out)) == {uid(k) for k in taken}
    assert set(served_dataset.objects_asked()) == {uid(k) for k in taken}


def test_download_retries_a_busy_server_and_reports_what_never_comes(served_dataset, tmp_path, waits, capsys):
    busy, gone, cut, short = (served_dataset.object_path(uid(k)) for k in (0, 1, 3, 4))
    served_dataset.busy[busy] = 2
    del served_dataset.files[gone]
    served_dataset.cut.add(cut)
    served_dataset.short.add(short)
    out = tmp_path / "objects.jsonl"
    command = ["objaverse", "--all", "--licences", "all", "--jobs", "1", "--retries", "2", "-o", str(out)]
    assert main(command) == 1
    assert set(rows(out)) == {uid(0), uid(2), uid(5)}
    assert waits == [1.0, 2.0] * 3  # of three objects; the one that is gone is not waited for
    assert left_out(out) == {uid(1): "missing", uid(3): "network", uid(4): "broken"}
    reasons = rows(out.with_name("objects.failures.jsonl"))
    assert "HTTP 404" in reasons[uid(1)]["reason"]
    assert "cut short" in reasons[uid(4)]["reason"]
    assert served_dataset.objects_asked() == {uid(0): 3, uid(1): 1, uid(2): 1, uid(3): 3, uid(4): 3, uid(5): 1}
    assert not list(tmp_path.rglob("*.tmp"))
    assert "3 new; failed: 1 broken, 1 missing, 1 network (see " in capsys.readouterr().out

    served_dataset.cut.clear()
    served_dataset.short.clear()
    assert main(command) == 1
    assert set(rows(out)) == {uid(k) for k in (0, 2, 3, 4, 5)}
    assert left_out(out) == {uid(1): "missing"}
    assert served_dataset.objects_asked()[uid(0)] == 3  # what is there is not asked for again


def test_objaverse_command_run_again_requests_nothing_and_writes_the_same_bytes(served_dataset, tmp_path, capsys):
    out = tmp_path / "objects.jsonl"
    assert main(["objaverse", "--count", "3", "-o", str(out)]) == 0
    before, asked = out.read_bytes(), sum(served_dataset.asked.values())
    assert main(["objaverse", "--count", "3", "-o", str(out)]) == 0
    assert (out.read_bytes(), sum(served_dataset.asked.values())) == (before, asked)
    assert capsys.readouterr().out.endswith("0 new; 3 there already; not taken: 1 under CC-BY-NC-4.0\n")


@pytest.mark.slow
def test_objaverse_after_a_kill_replaces_incomplete_files(served_dataset, tmp_path):
    last = served_dataset.object_path(uid(4))
    served_dataset.held[last] = threading.Event()
    out = tmp_path / "objects.jsonl"
    command = ["objaverse", "--all", "--jobs", "1", "-o", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "data_prep.sources", *command], cwd=ROOT, **quiet)
    wait_until(lambda: served_dataset.asked[last])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    served_dataset.held.pop(last).set()
    assert not out.exists()
    cache = tmp_path / "objaverse" / "hf-objaverse-v1"
    torn = [cache / "glbs" / "000-000" / f"{uid(0)}.glb", cache / "metadata" / "000-001.json.gz"]
    for file in torn:
        file.write_bytes(file.read_bytes()[:-7])
    assert main(command) == 0
    assert set(rows(out)) == {uid(0), uid(1), uid(3), uid(4)}
    assert served_dataset.objects_asked() == {uid(0): 2, uid(1): 1, uid(3): 1, uid(4): 2}
    assert torn[0].read_bytes() == served_dataset.files[served_dataset.object_path(uid(0))]


def test_objaverse_takes_the_same_objects_and_others_when_more_are_wanted(served_dataset, tmp_path):
    chosen = []
    for count in (2, 3):
        out = tmp_path / str(count) / "objects.jsonl"
        command = ["objaverse", "--count", str(count), "--seed", "5", "--no-download", "-o", str(out)]
        assert main(command) == 0
        chosen.append(set(rows(out)))
    assert [len(names) for names in chosen] == [2, 3]
    assert chosen[0] < chosen[1] < {uid(0), uid(1), uid(3), uid(4)}


def test_objaverse_fetches_a_list_of_uids_in_part_if_some_are_unknown(served_dataset, tmp_path):
    (tmp_path / "wanted.txt").write_text(f"{uid(4)}\n{'f' * 32}\n\n{uid(4)}\n")
    out = tmp_path / "objects.jsonl"
    command = ["objaverse", "--uids", str(tmp_path / "wanted.txt"), "--licences", "all", "-o", str(out)]
    assert main(command) == 1
    assert set(rows(out)) == {uid(4)}
    assert left_out(out) == {"f" * 32: "missing"}


def test_objaverse_fetches_what_is_only_listed_later_and_it_is_not_rendered_before(served_dataset, tmp_path, capsys):
    out = tmp_path / "objects.jsonl"
    assert main(["objaverse", "--count", "2", "--no-download", "-o", str(out)]) == 0
    assert "2 listed but not downloaded" in capsys.readouterr().out
    assert served_dataset.objects_asked() == {}
    with pytest.raises(ValueError, match="has no file yet"):
        object_manifest.find(out)
    assert main(["objaverse", "--count", "2", "-o", str(out)]) == 0
    assert len(object_manifest.find(out)) == 2


def test_objaverse_shares_a_cache_elsewhere_and_does_not_copy_it(served_dataset, tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "data" / "objects.jsonl"
    assert main(["objaverse", "--count", "1", "--cache", str(cache), "-o", str(out)]) == 0
    (item,) = object_manifest.find(out)
    assert item.path.is_relative_to(out.parent)
    assert item.path.samefile(cache / "hf-objaverse-v1" / "glbs" / "000-000" / f"{uid(0)}.glb")


def test_objaverse_ends_in_one_sentence_when_the_network_goes_down_and_keeps_what_came(
    served_dataset, tmp_path, waits, monkeypatch, capsys
):
    monkeypatch.setattr("data_prep.sources.downloads.LOST_IN_A_ROW", 2)
    for k in (1, 3, 4):
        served_dataset.busy[served_dataset.object_path(uid(k))] = 99
    out = tmp_path / "objects.jsonl"
    assert main(["objaverse", "--all", "--retries", "0", "-o", str(out)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert "2 objects in a row" in error[0]
    assert set(rows(out)) == {uid(0)}


@pytest.mark.parametrize("source", ["objaverse", "objaverse-xl"])
def test_objaverse_without_a_network_says_in_one_sentence_what_would_help(tmp_path, monkeypatch, capsys, source):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    out = tmp_path / "data" / "objects.jsonl"
    assert main([source, "--count", "1", "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "HF_ENDPOINT" in error
    assert "Connection refused" in error


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (["objaverse"], "--lvis, --uids, --count"),
        (["objaverse", "--count", "0"], "at least 1, got 0"),
        (["objaverse", "--lvis", "cofee_table"], "did you mean coffee_table"),
        (["objaverse", "--lvis", "mug", "--jobs", "0"], "--jobs >= 1"),
        (["objaverse", "--all", "--licences", ","], "no licence is named by"),
        (["objaverse", "--uids", "nowhere.txt"], "no list nowhere.txt"),
        (["objaverse-xl", "--all", "--from", "thingiverse"], "only bare STL"),
    ],
)
def test_selection_that_is_impossible_is_one_sentence(served_dataset, tmp_path, capsys, arguments, because):
    out = tmp_path / "objects.jsonl"
    assert main([*arguments, "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert because in error
    assert not out.exists()


def test_objaverse_refuses_a_list_of_paths_that_leads_out_of_the_cache(served_dataset, tmp_path, capsys):
    paths = {uid(0): f"glbs/000-000/../../../{uid(0)}.glb"}
    served_dataset.files[f"{ONE}/object-paths.json.gz"] = gzip.compress(json.dumps(paths).encode())
    out = tmp_path / "data" / "objects.jsonl"
    assert main(["objaverse", "--all", "--licences", "all", "--retries", "0", "-o", str(out)]) == 1
    assert left_out(out) == {uid(0): "broken"}
    assert not list(tmp_path.rglob(f"{uid(0)}.glb"))


def test_objaverse_leaves_the_package_and_urllib_as_they_were(served_dataset, tmp_path):
    def state():
        of_package = objaverse.BASE_PATH, objaverse._VERSIONED_PATH, objaverse._load_object_paths, objaverse.glob
        return *of_package, requests.get, getattr(urllib.request, "_opener", None), sys.stdout

    before = state()
    assert main(["objaverse", "--count", "1", "-o", str(tmp_path / "objects.jsonl")]) == 0
    assert all(one is other for one, other in zip(before, state(), strict=True))


def repository(place, name, files):
    """A git repository with these files; its commit."""
    folder = place / name
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    me = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*me, "commit", "-q", "-m", "objects"]):
        subprocess.run(["git", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return process.stdout.strip()


@pytest.fixture
def xl(served_dataset, tmp_path, monkeypatch):
    """Objaverse-XL's tables: two of Sketchfab's, some of GitHub's, some of the Smithsonian's."""
    server = os.environ["HF_ENDPOINT"]
    place = tmp_path / "github"
    pot = glb(tmp_path / "pot.glb", 0.95)
    commit = repository(place, "potter/pots", {"models/pot.glb": pot, "models/plain.obj": b"v 0 0 0", "a.fbx": b"-"})
    other = repository(place, "smith/tools", {"hammer.glb": glb(tmp_path / "hammer.glb", 0.9)})
    redirected = {"COUNT": "1", "KEY_0": f"url.file://{place}/.insteadOf", "VALUE_0": "https://github.com/"}
    for name, value in redirected.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    for folder in ("potter/pots", "smith/tools"):  # as the addresses end
        (place / f"{folder}.git").symlink_to(place / folder)
    relic = glb(tmp_path / "relic.glb", 0.85)
    served_dataset.files["/relic.glb"] = relic
    served_dataset.files["/vase.glb"] = glb(tmp_path / "vase.glb", 0.8)

    def sha(content):
        return hashlib.sha256(content).hexdigest()

    pots, tools = (f"https://github.com/{name}/blob" for name in ("potter/pots", "smith/tools"))
    tables = {
        "sketchfab": [
            (f"https://sketchfab.com/3d-models/{uid(0)}", "Creative Commons - Attribution", "glb", 0),
            (f"https://sketchfab.com/3d-models/{uid(2)}", "Creative Commons - Attribution - Non-Commercial", "glb", 2),
        ],
        "github": [
            (f"{pots}/{commit}/models/pot.glb", "MIT License", "glb", sha(pot)),
            (f"{pots}/{commit}/models/plain.obj", "MIT License", "obj", "0" * 64),  # another content is listed
            (f"{pots}/{commit}/a.fbx", "MIT License", "fbx", sha(b"-")),
            (f"{tools}/{other}/hammer.glb", None, "glb", "1" * 64),
            (f"https://github.com/gone/away/blob/{commit}/a.glb", "Apache License 2.0", "glb", "2" * 64),
        ],
        "smithsonian": [
            (f"{server}/relic.glb", "http://creativecommons.org/publicdomain/zero/1.0/", "glb", sha(relic)),
            (f"{server}/vase.glb", "http://creativecommons.org/publicdomain/zero/1.0/", "glb", "3" * 64),
            (f"{server}/lost.glb", "http://creativecommons.org/publicdomain/zero/1.0/", "glb", "4" * 64),
        ],
    }
    for source, listed in tables.items():
        table = pandas.DataFrame(listed, columns=["fileIdentifier", "license", "fileType", "sha256"])
        if source == "sketchfab":
            table["sha256"] = [sha(served_dataset.files[served_dataset.object_path(uid(k))]) for k in table["sha256"]]
        table["source"], table["metadata"] = source, json.dumps({"title": "A relic"})
        buffer = io.BytesIO()
        table.to_parquet(buffer)
        served_dataset.files[f"{XL}/{source}/{source}.parquet"] = buffer.getvalue()
    return {"pot": sha(pot), "relic": sha(relic)}


@pytest.mark.slow
def test_objects_of_objaverse_xl_come_from_all_its_sources(xl, served_dataset, tmp_path, waits, capsys):
    out = tmp_path / "data" / "objects.jsonl"
    command = ["objaverse-xl", "--all", "--retries", "1", "--jobs", "2", "-o", str(out)]
    assert main(command) == 1
    found = rows(out)
    assert set(found) == {uid(0), xl["pot"], xl["relic"]}
    assert found[uid(0)]["license"] == "CC-BY-4.0"
    assert found[xl["pot"]]["file"] == "objaverse/github/repos/potter/pots/models/pot.glb"
    assert (found[xl["pot"]]["license"], found[xl["pot"]]["author"]) == ("MIT", "potter")
    assert (found[xl["relic"]]["license"], found[xl["relic"]]["name"]) == ("CC0-1.0", "A relic")
    assert all(
        row["sha256"] == hashlib.sha256((out.parent / row["file"]).read_bytes()).hexdigest() for row in found.values()
    )
    assert left_out(out) == {"0" * 64: "changed", "2" * 64: "missing", "3" * 64: "changed", "4" * 64: "missing"}
    printed = capsys.readouterr().out
    assert "not taken: 1 under CC-BY-NC-4.0, 1 under no known licence" in printed
    assert len(object_manifest.find(out)) == 3

    asked = served_dataset.asked["/relic.glb"]
    assert main(["objaverse", "--count", "1", "-o", str(out)]) == 0  # the same object of Sketchfab
    assert "1 there already" in capsys.readouterr().out
    assert main(command) == 1
    assert served_dataset.asked["/relic.glb"] == asked


@pytest.mark.slow
def test_objaverse_fetches_a_repository_anew_that_a_kill_left_half_copied(xl, served_dataset, tmp_path, waits):
    out = tmp_path / "data" / "objects.jsonl"
    half = out.parent / "objaverse" / "github" / "repos" / "potter" / "pots"
    half.mkdir(parents=True)
    (half / "README").write_text("the first file of many")
    assert main(["objaverse-xl", "--from", "github", "--all", "--retries", "0", "-o", str(out)]) == 1
    assert set(rows(out)) == {xl["pot"]}


@pytest.mark.slow
def test_objaverse_fetches_a_table_anew_that_a_kill_left_half_written(xl, served_dataset, tmp_path):
    table = tmp_path / "data" / "objaverse" / "sketchfab" / "sketchfab.parquet"
    table.parent.mkdir(parents=True)
    table.write_bytes(served_dataset.files[f"{XL}/sketchfab/sketchfab.parquet"][:-100])
    out = tmp_path / "data" / "objects.jsonl"
    assert main(["objaverse-xl", "--from", "sketchfab", "--all", "-o", str(out)]) == 0
    assert set(rows(out)) == {uid(0)}


@pytest.mark.slow
def test_objaverse_ends_a_silent_connection(served_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.sources.objaverse.SILENCE_S", 0.3)
    silent = served_dataset.object_path(uid(1))
    served_dataset.held[silent] = threading.Event()
    out, start = tmp_path / "objects.jsonl", time.monotonic()
    assert main(["objaverse", "--count", "2", "--retries", "0", "-o", str(out)]) == 1
    served_dataset.held[silent].set()
    assert left_out(out) == {uid(1): "network"}
    assert time.monotonic() - start < 20
