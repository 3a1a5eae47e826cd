"""YAML of strangers is read or refused in one sentence."""

import pytest

from instant3d.utils.yaml_files import MAX_BYTES, load_yaml

pytestmark = pytest.mark.slow


def test_load_yaml_reads_plain_settings(tmp_path):
    (tmp_path / "a.yaml").write_text("size: 64\nangles: [-20, 4.5]\nname: é\n", encoding="utf-8")
    assert load_yaml(tmp_path / "a.yaml") == {"size": 64, "angles": [-20, 4.5], "name": "é"}


@pytest.mark.parametrize(
    "content",
    [
        b"size: [",
        b"\xff\xfe",
        b"[" * 5000 + b"]" * 5000,
        b"a: 2001-99-99",
        b"!!python/object/apply:os.system [echo]",
        b"a: " + b"x" * MAX_BYTES,
    ],
)
def test_load_yaml_refuses_broken_deep_long_and_dangerous_files_by_their_name(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.yaml is .*(not readable YAML|at most \d+ of YAML)"):
        load_yaml(tmp_path / "a.yaml")
