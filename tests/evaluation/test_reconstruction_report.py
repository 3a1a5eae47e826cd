"""The report of a reconstruction's evaluation: means, table, files, and records of interrupted runs."""

import json
import math

from instant3d.evaluation import reconstruction_report as reports


def test_mean_takes_the_rows_that_have_the_number():
    rows = [{"psnr": 20.0, "depth_error": math.nan}, {"psnr": 30.0, "depth_error": 0.1}, {"psnr": 10.0}]
    assert reports.mean(rows) == {"psnr": 20.0, "depth_error": 0.1}


def test_write_turns_metrics_that_are_nan_into_null(tmp_path):
    record = {"nearest_view": {"psnr": 1.5, "depth_error": math.nan}}
    reports.write(reports.summarize({"red": record}, {}), tmp_path)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["baselines"]["nearest_view"] == {"psnr": 1.5, "depth_error": None}


def test_table_has_a_row_for_each_method_and_no_number_where_nothing_was_measured():
    record = {
        "network": {"psnr": 30.0, "depth_error": 0.1},
        "mesh": {"psnr": 29.0},
        "nearest_view": {"psnr": 10.0},
        "visual_hull": {"psnr": 20.0, "depth_error": 0.2},
    }
    rows = reports.table(reports.summarize({"red": record}, {})).splitlines()
    assert rows[2] == "| | PSNR | depth error |"
    assert rows[4:] == [
        "| volume | 30.000 | 0.100 |",
        "| mesh | 29.000 |  |",
        "| nearest input view | 10.000 |  |",
        "| visual hull | 20.000 | 0.200 |",
    ]


def test_summarize_has_no_fields_for_meshes_if_there_are_none():
    record = {"network": {"psnr": 30.0}, "nearest_view": {"psnr": 10.0}, "visual_hull": {"psnr": 20.0}}
    assert not [name for name in reports.summarize({"red": record}, {}) if name.startswith("mesh")]


def test_record_cache_computes_each_scene_once_for_the_same_settings(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"network": {"psnr": 30.0, "chamfer": math.nan}}

    for settings in ({"views": [0]}, {"views": [0]}, {"views": [1]}):
        record = reports.RecordCache(tmp_path, settings).get("red", compute)
        assert record["network"]["psnr"] == 30
        assert math.isnan(record["network"]["chamfer"])
    assert len(calls) == 2


def test_record_cache_without_a_folder_computes_each_time():
    cache, calls = reports.RecordCache(None, {}), []
    for _ in range(2):
        cache.get("red", lambda: calls.append(1) or {})
    assert len(calls) == 2
