"""Counting of results over runs that were killed."""

from benchmarks.killed_runs import Rewrites


def write(out, *names):
    for name in names:
        (out / name).mkdir(parents=True, exist_ok=True)
        partial = out / name / "partial"
        partial.write_text("")
        partial.replace(out / name / "result.json")


def test_rewrites_counts_results_that_a_later_run_wrote_again_or_removed_and_no_half_written_ones(tmp_path):
    results = Rewrites(tmp_path, "result.json")
    write(tmp_path, "a", "b", "c", ".d.partial")
    (tmp_path / "begun").mkdir()
    assert results.after_a_run() == 3
    assert results.count == 0
    write(tmp_path, "b", "e")
    (tmp_path / "c" / "result.json").unlink()
    results.after_a_run()
    assert results.count == 2
    assert sorted(results.before) == ["a", "b", "e"]
