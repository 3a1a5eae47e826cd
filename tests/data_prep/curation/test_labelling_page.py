"""The labelling page in a real browser, by real keys, from the disk: what it shows, keeps, takes back and exports."""

import json

import browser
import discs
import pytest

from data_prep.curation import labelling, scene_index
from data_prep.curation.__main__ import main
from data_prep.manifests import id_lists

pytestmark = pytest.mark.slow

EVIL = '</script><img src=x onerror="document.title=1"><b>"&\'</b> \u2028 ${1} $data'
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as running:
        yield running


@pytest.fixture
def scenes(tmp_path):
    for k, name in enumerate(NAMES):
        discs.write(tmp_path / "scenes", name, (1.0, 0.2 * k, 0.0), caption=EVIL if name == "c" else f"a disc {name}")
    return tmp_path / "scenes"


@pytest.fixture
def show(chromium, tmp_path):
    """Opens a page in a browser without stored data; what goes wrong in it fails the test."""
    context = chromium.new_context()

    def opened(file):
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(file.as_uri())
        return page

    wrong: list[str] = []
    yield opened
    context.close()
    assert wrong == []


def written(scenes, tmp_path, *more):
    assert main(["label", str(scenes), "-o", str(tmp_path / "page.html"), *map(str, more)]) == 0
    return tmp_path / "page.html"


def order(scenes):
    return [subject.id for subject in labelling.sample(scene_index.find_scenes([scenes])[0], None)]


def exported(page, key, place):
    with page.expect_download() as waiting:
        page.keyboard.press(key)
    waiting.value.save_as(place)
    return id_lists.read_labels(place)


def test_page_keys_label_scenes_one_after_the_other_and_both_exports_say_the_same(scenes, tmp_path, show):
    page, names = show(written(scenes, tmp_path)), order(scenes)
    assert page.locator("#id").inner_text() == names[0]
    for key in ("g", "ArrowLeft", "s", "ArrowRight"):
        page.keyboard.press(key)
    assert page.locator("#counts").inner_text() == "4 of 4: 2 good, 1 bad, 1 skipped"
    assert page.locator("#good").is_disabled()
    expected = dict(zip(names, ("good", "bad", "skip", "good"), strict=True))
    assert exported(page, "e", tmp_path / "labels.json") == expected
    assert exported(page, "t", tmp_path / "labels.txt") == expected


def test_page_undo_takes_back_one_after_the_other_and_no_more_than_there_is(scenes, tmp_path, show):
    page, names = show(written(scenes, tmp_path)), order(scenes)
    for key in ("g", "b", "u", "ArrowUp", "u", "u", "b"):
        page.keyboard.press(key)
    assert page.locator("#id").inner_text() == names[1]
    assert exported(page, "e", tmp_path / "labels.json") == {names[0]: "bad"}


def test_page_buttons_do_what_keys_do_and_keys_with_modifiers_do_nothing(scenes, tmp_path, show):
    page, names = show(written(scenes, tmp_path)), order(scenes)
    page.keyboard.press("Control+b")
    page.locator("#good").click()
    page.keyboard.press("Space")  # a button that was clicked is not pressed again
    assert exported(page, "e", tmp_path / "labels.json") == {names[0]: "good"}


def test_page_keeps_labels_after_it_was_closed(scenes, tmp_path, show):
    file, names = written(scenes, tmp_path), order(scenes)
    witness, page = show(file), show(file)
    for key in "gb":
        page.keyboard.press(key)
    # A browser writes behind the page's back, and a page that a test closes is gone at once.
    witness.wait_for_function("Object.values(localStorage).some(kept => Object.keys(JSON.parse(kept)).length === 2)")
    page.close()
    again = show(file)
    assert again.locator("#id").inner_text() == names[2]
    assert exported(again, "e", tmp_path / "labels.json") == {names[0]: "good", names[1]: "bad"}
    discs.write(scenes, "e")
    other = show(written(scenes, tmp_path))  # another set of scenes has labels of its own
    assert other.locator("#counts").inner_text().startswith("0 of 5")


def test_page_can_start_from_labels_that_were_exported_before(scenes, tmp_path, show):
    (tmp_path / "labels.txt").write_text("b\tbad\nd\tgood\nelsewhere\tgood\n")
    page = show(written(scenes, tmp_path, "--labels", tmp_path / "labels.txt"))
    assert page.locator("#counts").inner_text() == "2 of 4: 1 good, 1 bad, 0 skipped"
    assert page.locator("#id").inner_text() == next(name for name in order(scenes) if name in "ac")


def test_page_captions_are_text_and_never_markup(scenes, tmp_path, show):
    page = show(written(scenes, tmp_path))
    while page.locator("#id").inner_text() != "c":
        page.keyboard.press("s")
    assert page.evaluate("document.getElementById('caption').textContent") == " ".join(EVIL.split(" "))
    assert page.evaluate("[document.images.length, document.querySelectorAll('b').length]") == [1, 0]
    assert page.title() == "Good or bad?"


def test_page_does_not_run_a_script_in_a_caption(scenes, tmp_path, chromium):
    file = written(scenes, tmp_path)
    file.write_text(file.read_text().replace("</main>", "<script>document.title = 'run'</script></main>"))
    page = chromium.new_page()
    page.goto(file.as_uri())
    assert page.title() == "Good or bad?"
    page.close()


@pytest.mark.parametrize("more", [(), ("--beside",)])
def test_page_holds_images_of_the_views_or_has_them_beside_it(scenes, tmp_path, show, more):
    page = show(written(scenes, tmp_path, *more))
    page.wait_for_function("document.getElementById('picture').complete")
    size = page.evaluate("(({naturalWidth: w, naturalHeight: h}) => [w, h])(document.getElementById('picture'))")
    assert size == [48, 48]  # two by two views of 24 pixels
    folder = tmp_path / "page_pictures"
    assert len(list(folder.glob("*.webp"))) == (4 if more else 0)


def test_label_command_takes_count_scenes_and_only_from_a_list(scenes, tmp_path):
    (tmp_path / "list.txt").write_text("# some\nd\nb\na\n")
    text = written(scenes, tmp_path, "--count", "2", "--only", tmp_path / "list.txt").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [row["id"] for row in data["subjects"]] == [name for name in order(scenes) if name in "abd"][:2]


def test_label_command_refuses_a_folder_without_scenes_in_a_sentence(tmp_path, capsys):
    assert main(["label", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 2
    assert "there is no usable scene" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
