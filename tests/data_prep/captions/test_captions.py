"""Captions into scenes: what is written, what stays byte for byte, what is refused; BLIP-2 by a tiny random one."""

import json

import discs
import pytest
import torch

from data_prep.captions import captions
from data_prep.captions.blip2 import Captioner, consensus
from instant3d import scenes

UID = "8476c4170df24cf5bbe6967222d1a42d"


@pytest.fixture
def place(tmp_path):
    for name in ("a", "b", "c"):
        discs.write(tmp_path / "scenes", name, caption="as it was" if name == "c" else None, license="MIT")
    return tmp_path / "scenes"


def words(place) -> dict[str, str | None]:
    return {folder.name: scenes.document(folder).text("caption") for folder in scenes.below(place)}


def run(*arguments) -> int:
    return captions.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("caption", ["a red chair", 'with "quotes", \\ and {braces}', "un café 🪑"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        '{\n "id": "x",\n "frames": [{"caption": "of a frame"}]\n}\n',
        '{"caption" : null , "frames":[ 1.50, "\\u00e9}" ], "é": "{\\"caption\\": 1}"}',
        '\n{\t"a": {"caption": 2}, "caption": "old, \\"and\\" long", "z": 1e-3}',
        '{"caption": "first", "caption": "second", "n": 12345678901234567890}',
    ],
)
def test_with_caption_changes_only_the_caption_of_a_document(text, encoding, caption):
    data = text.encode(encoding)
    written = captions.with_caption(data, caption)
    expected = json.loads(data) | {"caption": caption}
    assert json.loads(written) == expected
    again = captions.with_caption(captions.with_caption(written, "something else"), caption)
    assert again == written
    kept, changed = data.decode(encoding), written.decode(encoding)
    begin = next((k for k, (x, y) in enumerate(zip(kept, changed, strict=False)) if x != y), len(kept))
    rest = kept[begin:].lstrip() if "caption" not in json.loads(data) else ""
    assert changed.startswith(kept[:begin])
    assert changed.endswith(rest or kept[kept.rindex(",") :])  # what stands behind the caption


def test_write_caption_leaves_a_scene_as_before_but_for_its_caption(place):
    before = scenes.read(place / "a")
    lines = (place / "a" / "transforms.json").read_text().splitlines()
    captions.write_caption(place / "a", "a red disc")
    after = scenes.read(place / "a")
    assert (after.caption, after.id) == ("a red disc", "a")
    assert torch.equal(after.views.cameras.cam_to_world, before.views.cameras.cam_to_world)
    changed = (place / "a" / "transforms.json").read_text().splitlines()
    assert [line for line in changed if '"caption"' not in line] == lines


def test_captions_come_from_a_cap3d_csv_which_reports_scenes_that_it_lacks(place, tmp_path, capsys):
    discs.write(place, "by-uid", object_id="sofa", uid=UID)
    (tmp_path / "cap3d.csv").write_text(
        f'a,"a red disc, with ""nothing"" on it"\n{UID},  two   lines\nc,another\nffff,of no scene\na,a second one\n'
    )
    assert run("cap3d", tmp_path / "cap3d.csv", place) == 0
    printed = capsys.readouterr().out
    assert words(place) == {
        "a": 'a red disc, with "nothing" on it',
        "b": None,
        "by-uid": "two lines",
        "c": "as it was",
    }
    assert "2 captions written, 1 scenes had one already" in printed
    assert "1 scenes stay without one, such as b" in printed
    assert "1 captions belong to no scene here" in printed


def test_caption_that_exists_is_kept_without_overwrite_and_a_second_run_writes_nothing(place, tmp_path):
    (tmp_path / "list.csv").write_text("a,one\nb,two\nc,three\n")
    run("cap3d", tmp_path / "list.csv", place)
    dates = {path: path.stat().st_mtime_ns for path in place.glob("*/transforms.json")}
    run("cap3d", tmp_path / "list.csv", place)
    assert dates == {path: path.stat().st_mtime_ns for path in place.glob("*/transforms.json")}
    assert words(place)["c"] == "as it was"
    run("cap3d", tmp_path / "list.csv", place, "--overwrite")
    assert words(place) == {"a": "one", "b": "two", "c": "three"}


def test_captions_read_a_manifest_by_the_fields_that_rendering_reads(place, tmp_path):
    rows = [{"id": "a", "captions": ["best", "other"]}, {"id": "no", "uid": "b", "name": "chair"}, {"id": "c"}]
    (tmp_path / "objects.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("manifest", tmp_path / "objects.jsonl", place) == 0
    assert words(place) == {"a": "best", "b": "chair", "c": "as it was"}


def test_captions_that_are_invalid_are_refused_one_by_one(place, tmp_path, capsys):
    rows = [{"id": "a", "captions": ["bell\u0007"]}, {"id": "b", "captions": ["x" * 2000]}, {"id": "b", "name": "ok"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("manifest", tmp_path / "list.jsonl", place) == 1
    printed = capsys.readouterr().out
    assert "the caption of a holds control characters" in printed
    assert "the caption of b has 2,000 characters" in printed
    assert words(place) == {"a": None, "b": "ok", "c": "as it was"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a,one\nb,two,three\n", "line 2 has 3 columns"),
        (b"a,\xff\n", "is not UTF-8"),
        (b'a,"' + b"x" * 140_000 + b'"\n', "line 1 is no CSV"),
    ],
)
def test_caption_list_that_is_invalid_is_refused_in_a_sentence(place, tmp_path, capsys, data, words):
    (tmp_path / "list.csv").write_bytes(data)
    assert run("cap3d", tmp_path / "list.csv", place) == 2
    assert words in capsys.readouterr().err


def test_captions_refuse_tars_and_missing_lists_in_a_sentence(place, tmp_path, capsys):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "00000.tar").touch()
    (tmp_path / "list.csv").write_text("a,one\n")
    assert run("cap3d", tmp_path / "list.csv", tmp_path / "shards") == 2
    assert "instant3d unpack" in capsys.readouterr().err
    assert run("cap3d", tmp_path / "none.csv", place) == 2
    assert "none.csv does not exist" in capsys.readouterr().err


def test_consensus_is_the_caption_that_most_views_agree_on():
    assert consensus(["a dog", "a red wooden chair", "a red chair", "red chair with a cushion"]) == "a red chair"
    assert consensus(["a cup", "a boat"]) == "a cup"
    assert consensus(["", ""]) == ""


@pytest.fixture(scope="module")
def blip2(tmp_path_factory):
    """A random BLIP-2 of the released classes, as transformers saves one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
        PreTrainedTokenizerFast,
    )

    place = tmp_path_factory.mktemp("blip2")
    letters = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {
        word: 3 + k for k, word in enumerate(["a", "red", "blue", "chair", "of"])
    }
    inner = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", bos_token="</s>", unk_token="<unk>"
    )
    pictures = BlipImageProcessor(size={"height": 16, "width": 16})
    processor = Blip2Processor(pictures, tokenizer, num_query_tokens=4)
    processor.save_pretrained(place)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "model_type": "opt",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "ffn_dim": 32,
        "word_embed_proj_dim": 16,
    }
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = Blip2Config(
        vision_config={**small, "image_size": 16, "patch_size": 8},
        qformer_config={**small, "encoder_hidden_size": 16, "vocab_size": 10, "cross_attention_frequency": 1},
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Blip2ForConditionalGeneration(config)
        for weights in model.parameters():
            weights.data.mul_(8)  # so that images matter
        model.save_pretrained(place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["", "a red"])
def test_blip2_caption_is_that_of_transformers_own_beam_search(blip2, prompt):
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    pictures = torch.stack([torch.zeros(3, 20, 20), torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))])
    model, processor = Blip2ForConditionalGeneration.from_pretrained(blip2), Blip2Processor.from_pretrained(blip2)
    expected = []
    for picture in pictures:
        level = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        ready = processor(images=level, text=prompt, return_tensors="pt")
        tokens = model.generate(**ready, num_beams=5, max_new_tokens=40, do_sample=False)[0]
        text = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        expected.append(text.removeprefix(prompt).strip())
    found = Captioner.from_pretrained(blip2)(pictures, prompt)
    assert found == expected
    assert any(found)


@pytest.mark.slow
def test_blip2_command_writes_the_consensus_of_the_views_and_resumes(blip2, place, monkeypatch, capsys):
    said = []

    def speak(self, pictures, prompt):
        if len(said) == 1:
            raise KeyboardInterrupt
        said.append(pictures)
        return ["a cat", "a red disc", "a red disc on white", "a red disc"]

    monkeypatch.setattr(Captioner, "__call__", speak)
    with pytest.raises(KeyboardInterrupt):
        run("blip2", place, "--model", blip2)
    assert words(place) == {"a": "a red disc", "b": None, "c": "as it was"}
    assert said[0].shape == (4, 3, 24, 24)
    assert said[0][:, :, 0, 0].eq(1).all()  # on white
    said.clear()
    assert run("blip2", place, "--model", blip2) == 0
    assert words(place) == {"a": "a red disc", "b": "a red disc", "c": "as it was"}
    assert "1 captions written, 2 scenes had one already" in capsys.readouterr().out


@pytest.mark.slow
def test_blip2_folder_without_weights_is_refused_in_a_sentence(place, tmp_path, capsys):
    assert run("blip2", place, "--model", tmp_path) == 2
    assert "neither a folder with a whole BLIP-2" in capsys.readouterr().err
