"""
The demo as people use it: Chromium, by mouse and by keyboard, at the widths of a desktop and of a phone.

With SALFOM_SCREENSHOTS=docs in the environment, the pictures of docs/demo.md are made again.
"""

import csv
import os
import re
import shutil
from pathlib import Path

import av
import pytest
from PIL import Image

from conftest import noise, write_clip
from demo_server import PATIENCE, serving
from numbered_video import make_video

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed: apt-get install chromium")

EXAMPLE = Path(__file__).parents[1] / "src" / "salfom_hf" / "assets" / "example.mp4"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
BUTTON = "Where do people look?"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # The camera shows a green test picture.
        arguments = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream"]
        arguments.append("--use-fake-ui-for-media-stream")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(model_folder, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), "--model", str(model_folder)) as running:
        yield running


@pytest.fixture(scope="module")
def upload(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("upload") / "walk.mp4", frames=24, height=120, width=160)


def opened(browser, url, size, script=""):
    """The page, in which the script runs before its own."""
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, has_touch=size == "phone")
    page.set_default_timeout(1000 * PATIENCE)
    page.add_init_script(script)
    page.goto(url)
    page.get_by_role("button", name=BUTTON).wait_for()
    return page


def choose(page, file):
    page.locator("#video-input input[type=file]").set_input_files(file)
    page.locator("#video-input video").wait_for()


def result(page):
    """The overlay's player, once it can play."""
    player = page.locator("#video-overlay video")
    player.wait_for()
    page.wait_for_function("document.querySelector('#video-overlay video').readyState >= 3")
    return player


def downloaded(page, label, folder):
    with page.expect_download() as download:
        page.get_by_role("button", name=label).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def num_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def pick(page, label, option):
    """Choose from a list, as people do: what comes meanwhile may close it, and then it is opened again."""
    for _ in range(10):
        page.get_by_label(label).first.click()
        try:
            page.get_by_role("option", name=option).click(timeout=10_000)
            return
        except sync_api.TimeoutError:
            page.keyboard.press("Tab")
    pytest.fail(f"The list {label} does not stay open.")


@pytest.mark.parametrize("size", SIZES)
def test_upload_and_get_a_video_back(browser, server, upload, tmp_path, size):
    page = opened(browser, server.url, size)
    assert fits(page)
    choose(page, upload)
    page.get_by_role("button", name=BUTTON).click()
    player = result(page)
    assert player.evaluate("video => [video.videoWidth, video.videoHeight]") == [160, 120]
    assert player.evaluate("video => video.duration") == pytest.approx(24 / 25, abs=0.05)
    player.evaluate("video => { video.loop = false; video.currentTime = 0; video.play(); }")
    page.wait_for_function("document.querySelector('#video-overlay video').ended")
    assert player.get_attribute("aria-label").startswith("Your video with colours")
    assert num_frames(downloaded(page, "Overlay (MP4)", tmp_path)) == 24
    with downloaded(page, "Table (CSV)", tmp_path).open() as table:
        assert len(list(csv.DictReader(table))) == 24
    assert downloaded(page, "Maps (NPZ)", tmp_path).suffix == ".npz"
    # The path is drawn, and says that words tell the same.
    page.get_by_role("img", name="the text says it in words").wait_for()
    page.get_by_text("Where the eyes go").wait_for()
    for tab, place in (("Heat map", "#video-heat-map"), ("Side by side", "#video-side-by-side")):
        page.get_by_role("tab", name=tab).click()
        page.locator(f"{place} video").wait_for()
    assert fits(page)
    page.get_by_role("link", name="Its card").click()
    page.locator("#model-card").get_by_text("has no card").wait_for()
    if size == "desktop":  # Other colours come without pressing the button.
        page.get_by_role("tab", name="Overlay").click()
        first = result(page).get_attribute("src")
        page.get_by_role("button", name="Settings").first.click()
        pick(page, "Colours", "inferno")
        page.wait_for_function("source => document.querySelector('#video-overlay video')?.src != source", arg=first)
    page.close()


def test_by_keyboard_alone(browser, server, upload):
    page = opened(browser, server.url, "desktop")
    choose(page, upload)

    def tab_to(name, key="Tab"):
        for _ in range(60):
            page.keyboard.press(key)
            focused = page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''")
            if focused.strip().startswith(name):
                return
        raise AssertionError(f"{key} never reaches {name}.")

    tab_to("Upload file")
    tab_to("Settings")
    page.keyboard.press("Enter")
    tab_to("range slider for Length")
    for _ in range(30):  # From 10 seconds down to the least, half a second.
        page.keyboard.press("ArrowLeft")
    sync_api.expect(page.get_by_label("number input for Length")).to_have_value("0.5")
    tab_to(BUTTON, "Shift+Tab")
    page.keyboard.press("Enter")
    result(page)
    page.get_by_text("13 frames").wait_for()
    tab_to("Heat map")
    page.keyboard.press("Enter")
    page.locator("#video-heat-map video").wait_for()
    tab_to("Table (CSV)")
    with page.expect_download():
        page.keyboard.press("Enter")
    tab_to("Picture", "Shift+Tab")
    page.keyboard.press("Enter")
    tab_to("Try the example")
    page.keyboard.press("Enter")
    page.get_by_role("img", name="Your picture with colours where people probably look").wait_for()
    page.close()


def test_a_picture(browser, server):
    page = opened(browser, server.url, "phone")
    page.get_by_role("tab", name="Picture").click()
    page.get_by_role("button", name="Try the example").click()
    picture = page.get_by_role("img", name="Your picture with colours where people probably look")
    picture.wait_for()
    page.wait_for_function("image => image.naturalWidth == 640", arg=picture.element_handle())
    assert fits(page)
    page.close()


def test_the_camera(browser, server, tmp_path):
    page = opened(browser, server.url, "desktop")
    for seconds in (3, 15, 60):  # On a busy machine a short recording may be empty.
        page.get_by_label("Capture from camera").first.click()
        page.get_by_role("button", name="Click to Access Webcam").click()
        record = page.get_by_role("button", name="start recording")
        record.click()
        page.wait_for_timeout(1000 * seconds)
        record.click()  # It stops, too, under the same name.
        player = page.locator("#video-input video[src]")
        player.wait_for()
        page.wait_for_timeout(2000)
        if player.evaluate("video => video.readyState") > 0:
            break
        page.locator("#video-input").get_by_label("Clear").last.click()
    page.get_by_role("button", name=BUTTON).click()
    result(page)
    assert num_frames(downloaded(page, "Overlay (MP4)", tmp_path)) > 0
    page.close()


def test_a_broken_picture_is_one_sentence_that_stays(browser, server, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"This is no picture." * 50)
    page = opened(browser, server.url, "phone")
    page.get_by_role("tab", name="Picture").click()
    page.locator("#picture-input input[type=file]").set_input_files(tmp_path / "broken.jpg")
    page.locator(".words").filter(has_text="⚠️ Cannot read broken.jpg").first.wait_for()
    page.locator("#picture-input input[type=file]").wait_for(state="attached")  # The picture is gone.
    assert page.get_by_test_id("toast-body").count() == 0
    page.get_by_role("button", name=BUTTON).click()
    page.get_by_text("Choose a picture first").wait_for()
    page.close()


def test_a_video_that_the_browser_cannot_play(browser, server, tmp_path):
    """As an iPhone makes it, of which Chromium on Linux knows no type; with sound, Chromium plays that alone."""
    page = opened(browser, server.url, "desktop")
    words = "The button takes the first 10 of 11 s; change that in the settings."
    hint = page.locator(".words").filter(has_text=words)
    said = page.get_by_text("Your browser cannot show this video").filter(visible=True)
    clear = page.locator("#video-input").get_by_label("Clear").last
    pictures = list(noise(22, 64, 96))
    for tone in (None, "aac"):
        choose(page, make_video(tmp_path / "IMG_1.MOV", range(22), 2, pictures=pictures, tone=tone, codec="libx265"))
        sync_api.expect(hint.first).to_contain_text(
            "Your browser cannot show this video, but this page can read it. The"
        )
        said.wait_for()
        assert page.get_by_text("Video not playable").filter(visible=True).count() == 0
        if tone is None:
            clear.click()
            said.wait_for(state="detached")
    page.get_by_role("button", name=BUTTON).click()
    said.wait_for(state="detached")
    result(page)
    clear.click()
    choose(page, EXAMPLE)
    page.get_by_text(re.compile("Press the button")).wait_for()
    assert said.count() == 0
    page.close()


def test_a_video_that_is_dropped_with_a_name_in_capitals(browser, server, upload):
    page = opened(browser, server.url, "desktop")
    make = """bytes => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "IMG_0001.MOV"));
        return data;
    }"""
    data = {"dataTransfer": page.evaluate_handle(make, list(upload.read_bytes()))}
    place = page.locator("#video-input button:has(input[type=file])")
    place.dispatch_event("dragenter", data)
    place.dispatch_event("drop", data)
    page.get_by_text(re.compile("Press the button")).wait_for()
    page.get_by_role("button", name=BUTTON).click()
    result(page)
    page.close()


HEIC = "IMG_0002.HEIC; convert it to JPEG"


@pytest.mark.parametrize(
    ("tab", "sentences"),
    [("Video", [HEIC, "notes.txt is damaged", "broken.mp4"]), ("Picture", [HEIC, "notes.txt as a"])],
)
def test_the_server_says_at_once_what_it_does_not_take(browser, server, tmp_path, tab, sentences):
    page = opened(browser, server.url, "desktop")
    page.get_by_role("tab", name=tab).click()
    for words in sentences:
        file = tmp_path / re.split("[ ;]", words)[0]
        file.write_bytes(b"neither picture nor video" * 50)
        page.locator(f"#{tab.lower()}-input input[type=file]").set_input_files(file)
        message = page.locator(".words").filter(has_text=words).first
        message.wait_for()
        assert str(server.temporary) not in message.inner_text()
        for chatter in (page.get_by_text("Invalid file type"), page.get_by_text("Error", exact=True)):
            assert chatter.filter(visible=True).count() == 0
    page.close()


# Chooses a photo the moment that there is a place for it, sooner than people can.
QUICK = """
    const observer = new MutationObserver(() => {
        const input = document.querySelector("#video-input input[type=file]");
        if (!input) return;
        observer.disconnect();
        const chosen = new DataTransfer();
        chosen.items.add(new File([Uint8Array.from(PHOTO)], "photo.jpg", {type: "image/jpeg"}));
        input.files = chosen.files;
        input.dispatchEvent(new Event("change", {bubbles: true}));
    });
    observer.observe(document, {childList: true, subtree: true});
"""


@pytest.mark.parametrize("quick", [False, True])
def test_a_photo_in_the_tab_of_videos_is_taken_as_a_photo(browser, server, tmp_path, quick):
    photo = tmp_path / "photo.jpg"
    Image.linear_gradient("L").save(photo)
    if quick:
        script = QUICK.replace("PHOTO", str(list(photo.read_bytes())))
        page = opened(browser, server.url, "desktop", script)
    else:
        page = opened(browser, server.url, "desktop")
        page.locator("#video-input input[type=file]").set_input_files(photo)
    page.get_by_role("img", name="Your picture", exact=True).wait_for()
    page.get_by_role("button", name=BUTTON).click()
    page.get_by_role("img", name="Your picture with colours where people probably look").wait_for()
    page.close()


@pytest.mark.parametrize(("name", "had"), [("IMG_0001.MOV", False), ("other.mp4", True)])
def test_a_video_in_the_tab_of_pictures_is_taken_as_a_video(browser, server, upload, tmp_path, name, had):
    page = opened(browser, server.url, "desktop")
    if had:  # The new one takes the place of the old one.
        choose(page, upload)
    page.get_by_role("tab", name="Picture").click()
    page.locator("#picture-input input[type=file]").set_input_files(shutil.copy(upload, tmp_path / name))
    page.locator(f"#video-input video[src*='{Path(name).stem}']").wait_for()  # The hint may still be of the old one.
    page.get_by_text(re.compile("Press the button")).wait_for()
    page.get_by_role("button", name=BUTTON).click()
    result(page)
    page.close()


def test_the_rest_of_a_video_and_both_players_in_step(browser, server, upload):
    page = opened(browser, server.url, "phone")
    choose(page, upload)
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_label("number input for Length").fill("0.5")
    page.keyboard.press("Tab")
    sync_api.expect(page.get_by_label("range slider for Length")).to_have_value("0.5")
    page.get_by_role("button", name=BUTTON).click()
    page.get_by_text("The first 0.5 of 1 s").wait_for()
    page.get_by_role("button", name="Go on: 0.5 to 1 s").click()
    page.get_by_text("From 0.5 s on, the last 0.4 s").wait_for()
    result(page).evaluate("video => { video.pause(); video.currentTime = 0.2; }")
    page.wait_for_function("Math.abs(document.querySelector('#video-input video').currentTime - 0.7) < 0.05")
    page.close()


def shoot(page, name, folder):
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "shot.png", full_page=True)
    picture = Path(os.environ.get("SALFOM_SCREENSHOTS", folder), f"demo-{name}.jpg")
    Image.open(folder / "shot.png").convert("RGB").save(picture, quality=60, optimize=True)
    assert picture.stat().st_size < 160_000


def look_at_the_example(page, size, folder):
    """Two seconds of it, for slow machines."""
    choose(page, EXAMPLE)
    hint = page.get_by_text(re.compile("Press the button"))
    hint.wait_for()
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_label("number input for Length").fill("2")
    page.keyboard.press("Tab")
    # The slider next to the number shows that the page has taken it.
    sync_api.expect(page.get_by_label("range slider for Length")).to_have_value("2")
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_role("button", name=BUTTON).click()
    if size == "desktop":
        page.get_by_text("Looking at frame").first.wait_for()
        hint.wait_for(state="detached", timeout=3000)
        assert not page.locator("#video-overlay video").count()
        shoot(page, "work", folder)
    player = result(page)
    words = page.locator(".words").filter(has_text="Where the eyes go").first.inner_text()
    assert "60 frames" in words
    assert "not the weights of the SalFoM paper" in words
    assert num_frames(downloaded(page, "Overlay (MP4)", folder)) == 60
    player.evaluate("video => { video.pause(); video.currentTime = 0.5; }")
    page.wait_for_function("!document.querySelector('#video-overlay video').seeking")
    shoot(page, size, folder)


def test_the_example_with_the_weights_of_the_package(browser, tmp_path):
    """What a newcomer sees first."""
    (tmp_path / "broken.mp4").write_bytes(EXAMPLE.read_bytes()[:700])
    with serving(tmp_path, "--stride", "4") as server:
        for size in SIZES:
            page = opened(browser, server.url, size)
            if size == "phone":
                page.locator("#video-input input[type=file]").set_input_files(tmp_path / "broken.mp4")
                page.locator(".words").filter(has_text="broken.mp4").first.wait_for()
                shoot(page, "error", tmp_path)
            if size == "desktop" or "SALFOM_SCREENSHOTS" in os.environ:
                look_at_the_example(page, size, tmp_path)
            # Its lines of code and its tables are wider than a phone.
            page.get_by_role("button", name="Model card").click()
            page.locator("#model-card pre").first.wait_for()
            assert fits(page)
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            page.close()
