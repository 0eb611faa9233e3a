"""`salfom data make`: gaze lands on the frame that was shown and the pixel that was looked at, or is accounted for."""

import csv
import math
import os
import shutil
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from PIL import Image

from conftest import write_clip
from numbered_video import HEIGHT, WIDTH, make_video, number_of
from salfom_hf.data import (
    DataError,
    GazeFolder,
    export_dataset,
    load_export,
    load_gazefolder,
    make_gazefolder,
    open_sample,
)
from salfom_hf.errors import VideoError
from salfom_hf.evaluation import density_text
from salfom_hf.evaluation.running import digest_of

# Of the video whose frame rate varies: when its frames are shown.
TICKS, TICK = [0, 30, 100, 110, 500, 1234, 1235, 3000], Fraction(1, 600)


def write_table(path, rows, header=("video", "time", "x", "y")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three videos that carry the numbers of their frames: 30 frames at 30 per second, 12 at 24, 8 at odd times."""
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "steady.mp4", range(30), rate=30)
    make_video(folder / "film.mkv", range(12), rate=24)
    make_video(folder / "varying.mp4", TICKS, time_base=TICK)
    return folder


@pytest.fixture
def videos(source, tmp_path):
    return shutil.copytree(source, tmp_path / "videos")


@pytest.fixture
def make(videos, tmp_path):
    """Makes `out` of these rows."""

    def run(rows, header=("video", "time", "x", "y"), source=videos, out="out", **options):
        return make_gazefolder(source, write_table(tmp_path / "gaze.csv", rows, header), tmp_path / out, **options)

    return run


@pytest.fixture
def samples(tmp_path):
    def load(split="train", out="out"):
        return {row["video_id"]: open_sample(row) for row in load_gazefolder(tmp_path / out, split)}

    return load


def fixated(sample):
    """Of each fixated pixel: the number that its frame shows, row, column."""
    found = set()
    for index, image in enumerate(sample.frames()):
        found |= {(number_of(image), row, column) for row, column in np.argwhere(sample.fixations(index)).tolist()}
    return found


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


no_gaze = pytest.mark.filterwarnings("ignore:Left out, without gaze")


@no_gaze
def test_times_find_the_frame_that_is_shown(make, samples):
    rows = [
        ("steady", 0, 0, 0),
        ("steady", 0.5, 10.9, 20.1),  # Frame 15 begins here.
        ("steady", 0.499, 11, 21),
        ("steady", 0.53, 12, 22),
        ("steady", 0.033, 1, 1),  # 1/30 s, as a table with three decimals has it.
        ("steady", 0.999, WIDTH - 0.01, HEIGHT - 0.01),
        ("film.mkv", 0.25, 5, 6),
        ("film.mkv", 0.249, 7, 8),
    ]
    made = make(rows)
    assert (made.fixations, sum(made.dropped.values())) == (8, 0)
    found = samples()
    assert fixated(found["steady"]) == {
        (0, 0, 0),
        (15, 20, 10),
        (14, 21, 11),
        (15, 22, 12),
        (1, 1, 1),
        (29, HEIGHT - 1, WIDTH - 1),
    }
    # Matroska's times are whole milliseconds: frame 6 of 24 per second is shown from 0.250 on.
    assert fixated(found["film"]) == {(6, 6, 5), (5, 8, 7)}
    assert (found["steady"].num_frames, found["steady"].fps, found["steady"].size) == (30, 30, (HEIGHT, WIDTH))
    assert found["film"].fps == pytest.approx(24, abs=0.1)


@no_gaze
def test_times_where_the_frame_rate_varies(make, samples):
    times = np.arange(0.002, 5.1, 0.03)
    # Not within a millisecond of the frames' own times, where rounding may go either way.
    times = times[np.abs(times[:, None] - np.array(TICKS) / 600).min(axis=1) > 0.001]
    make([("varying", time, number % WIDTH, number // WIDTH) for number, time in enumerate(times)])
    # A frame is shown until the next one.
    shown = [max(index for index, tick in enumerate(TICKS) if tick <= time * 600) for time in times]
    expected = {(index, number // WIDTH, number % WIDTH) for number, index in enumerate(shown)}
    assert {index for index, _, _ in expected} == set(range(8)) - {5}  # Frame 5 is shown for less than a step.
    assert fixated(samples()["varying"]) == expected


@no_gaze
def test_frames_by_number(make, samples):
    rows = [("varying.mp4", 4, 3, 0), ("varying", "7.0", 7.5, 8), ("varying", 8, 1, 1), ("varying", -1, 1, 1)]
    made = make(rows, header=("video", "frame", "x", "y"))
    assert fixated(samples()["varying"]) == {(4, 0, 3), (7, 8, 7)}
    assert (made.fixations, made.dropped["before or after the video"]) == (2, 2)


def test_what_is_written(make, tmp_path):
    make([("steady", 0.1, 5, 5), ("film", 0.1, 5, 5), ("varying", 0.1, 5, 5)])
    files = tree(tmp_path / "out")
    assert [name for name in files if name.startswith("train/film/")] == sorted(
        [f"train/film/{part}" for part in ("images", "maps", "fixation", "fps.txt", "sigma.txt")]
        + [f"train/film/images/{number:06d}.jpg" for number in range(12)]
        + [f"train/film/{part}/{number:06d}.png" for part in ("maps", "fixation") for number in range(12)]
    )
    clip = tmp_path / "out" / "train" / "film"
    with Image.open(clip / "images" / "000000.jpg") as image:
        # Tables of quantization of quality 95.
        assert (image.size, max(image.quantization[0])) == ((WIDTH, HEIGHT), 12)
    for part in ("maps", "fixation"):
        # The frame at 0.1 s is the third; nobody looks at the first one.
        first, third = (np.asarray(Image.open(clip / part / f"00000{number}.png")) for number in (0, 2))
        assert (first.dtype, first.shape, first.max(), third.max()) == (np.uint8, (HEIGHT, WIDTH), 0, 255)
    assert set(np.unique(third)) == {0, 255}
    report = GazeFolder.check(tmp_path / "out", decode=True)
    assert report.fatal == []
    assert report.found["train"].frames == 30 + 12 + 8


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A video 320 wide, half of what densities are defined for."""
    return write_clip(tmp_path_factory.mktemp("wide") / "wide.mp4", frames=2, width=320, height=240, sound=False)


@pytest.mark.parametrize("sigma", [None, 20.0])
def test_densities_are_gaussians(make, samples, wide, sigma):
    rows = [("wide", 0.01, 100.3, 80.7), ("wide", 0.05, 250, 120), ("wide", 0.05, 250, 120), ("wide", 0.05, 280, 120)]
    make(rows, source=wide, **({} if sigma is None else {"sigma": sigma}))
    # DHF1K: half of the maximum at 15 pixels from the fixation, of 640.
    scaled = 7.5 / math.sqrt(2 * math.log(2)) if sigma is None else sigma / 2
    y, x = np.mgrid[:240, :320]

    def gaussian(column, row):
        return np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * scaled**2))

    sample = samples()["wide"]
    one, several = gaussian(100, 80), 2 * gaussian(250, 120) + gaussian(280, 120)
    # Rounded to 1/255, and zero beyond four standard deviations.
    np.testing.assert_allclose(sample.density(0), one, atol=0.003)
    np.testing.assert_allclose(sample.density(1), several / several.max(), atol=0.003)
    assert np.unravel_index(sample.density(0).argmax(), (240, 320)) == (80, 100)
    if sigma is None:
        assert sample.density(0)[80, 107] > 0.5 > sample.density(0)[80, 108]
    assert sample.fixations(1).sum() == 2


@no_gaze
def test_fixations_belong_to_the_frames_that_appear_while_they_last(make, samples, tmp_path):
    rows = [
        ("steady", 0.1, 0.1, 10, 20, "anna"),  # Frames 3, 4 and 5 of 30 per second.
        ("steady", 0.11, 0.04, 30, 5, "ben"),  # Begins in frame 3, and lasts while frame 4 appears.
        ("steady", 0.105, 0.01, 40, 8, "anna"),  # Shorter than frame 3.
        ("steady", 2, 1, 3, 3, "ben"),  # After the end.
    ]
    made = make(rows, ("video", "start", "duration", "x", "y", "observer"))
    assert (made.fixations, made.observers, made.dropped["before or after the video"]) == (5, 2, 1)
    sample = samples()["steady"]
    assert fixated(sample) == {(3, 20, 10), (4, 20, 10), (5, 20, 10), (4, 5, 30), (3, 8, 40)}
    anna, ben = 0, 1
    assert [sample.observers(index).tolist() for index in (2, 3, 4, 5)] == [[], [anna], [anna, ben], [anna]]
    assert np.argwhere(sample.fixations(4, observers=[ben])).tolist() == [[5, 30]]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    sigma = 30 / math.sqrt(8 * math.log(2)) * WIDTH / 640
    expected = np.exp(-((x - 30) ** 2 + (y - 5) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(sample.density(4, observers=[ben]), expected, atol=0.003)
    # Half as large, the same place is at half the coordinates.
    make(rows, ("video", "start", "duration", "x", "y", "observer"), out="small", longest=WIDTH // 2)
    small = samples(out="small")["steady"]
    assert small.size == (HEIGHT // 2, WIDTH // 2)
    assert np.argwhere(small.fixations(5)).tolist() == [[10, 5]]


@no_gaze
@pytest.mark.parametrize("options", [{}, {"longest": 240}])
def test_observers_have_the_sigma_of_the_densities(make, samples, wide, tmp_path, options):
    """Also in exports; without sigma.txt, as in folders of one's own, it is the default."""
    rows = [("wide", 0.0, 60 * who + 20.5, 50 * who + 30.5, f"o{who}") for who in range(4)]
    make(rows, ("video", "time", "x", "y", "observer"), source=wide, sigma=45, **options)
    dataset = load_gazefolder(tmp_path / "out")
    export_dataset({"train": dataset}, tmp_path / "shards", "gazefolder")
    digest = digest_of(dataset)
    assert density_text(dataset) == "fixations, blurred with a Gaussian of sigma 45 pixels of a video 640 wide"
    for row in (dataset[0], load_export(tmp_path / "shards")[0]):
        sample = open_sample(row)
        stored, everyone = sample.density(0), sample.density(0, observers=[0, 1, 2, 3])
        assert np.corrcoef(stored.ravel(), everyone.ravel())[0, 1] > 0.9999
        np.testing.assert_allclose(everyone, stored, atol=0.003)
    file = tmp_path / "out" / "train" / "wide" / "sigma.txt"
    file.unlink()
    [sample] = samples().values()
    assert np.corrcoef(stored.ravel(), sample.density(0, observers=[0, 1, 2, 3]).ravel())[0, 1] < 0.9
    assert digest_of(load_gazefolder(tmp_path / "out")) != digest  # Scores of the human bound are others.
    file.write_text("wide")
    with pytest.raises(DataError, match=r"sigma\.txt: is not a number above 0"):
        samples()


@no_gaze
def test_one_video_needs_no_option(salfom_data, videos, tmp_path):
    write_table(tmp_path / "gaze.csv", [("steady", 0.1, 5, 5)])
    code, said = salfom_data("make", "videos/steady.mp4", "gaze.csv", "out")
    assert (code, "1 video (train 1)" in said.out) == (0, True)
    assert said.err == "salfom: One video is not divided: it goes to train; to only score it, say --split test.\n"
    for options, split in ((("--split", "test"), "test"), (("--validation", "0"), "train")):
        code, said = salfom_data("make", "videos/steady.mp4", "gaze.csv", "out", "--overwrite", *options)
        assert (code, said.err, f"1 video ({split} 1)" in said.out) == (0, "", True)


@no_gaze
def test_frames_that_seem_to_be_counted_from_1_are_refused(make):
    rows = [("varying", number, 3, 3) for number in range(1, 9)]
    with pytest.raises(DataError, match="as if frames were counted from 1; subtract 1 in the column frame"):
        make(rows, header=("video", "frame", "x", "y"))
    assert make([*rows, ("varying", 0, 3, 3)], header=("video", "frame", "x", "y")).fixations == 8


ODD_ROWS = [
    *(("steady", 0.5, 5, 5, "b") for _ in range(3)),
    ("steady", 0.5, 5, 5, "a"),
    ("steady", 0.5, 6, 5, "b"),
    ("steady", 0.5, 6, 5, " "),
    ("steady", 0.5, -0.1, 5, "a"),
    ("steady", 0.5, 5, HEIGHT, "a"),
    ("steady", 0.5, 1e300, 5, "a"),
    ("steady", -0.1, 5, 5, "a"),
    ("steady", 1.1, 5, 5, "a"),
    ("steady", 0.5, "nan", 5, "c"),
    ("steady", 0.5, 5, "", "a"),
    ("steady", "NA", 5, 5, "a"),
    ("steady", 0.5, "inf", 5, "a"),
]


@no_gaze
def test_rows_that_lie_nowhere_are_counted(make, samples):
    with pytest.warns(UserWarning, match=r"Of .*gaze\.csv, 3 rows outside the frame: .* pixels of the screen"):
        made = make(ODD_ROWS, header=("video", "time", "x", "y", "observer"))
    assert made.dropped == {"without a number": 4, "outside the frame": 3, "before or after the video": 2}
    assert (made.fixations, made.frames, made.observers, made.videos) == (6, 30, 2, {"train": ["steady"]})
    assert fixated(samples()["steady"]) == {(15, 5, 5), (15, 5, 6)}
    assert str(made) == (
        "1 video (train 1), 6 rows of 2 observers, 6 fixated places in 30 frames; 9 rows dropped (4 without a number; "
        "3 outside the frame; 2 before or after the video)"
    )


def test_videos_and_gaze_without_one_another_are_named(make, samples, videos):
    (videos / "._film.mkv").write_bytes(b"what some systems leave behind")
    (videos / "notes.txt").write_text("no video")
    shutil.copy(videos / "steady.mp4", videos / "trip.v2.mp4")
    with pytest.warns(UserWarning, match="without") as warned:
        make([("steady.mp4", 0.5, 5, 5), ("stedy", 0.5, 5, 5), ("film.mp4", 0.5, 5, 5), ("trip.v2", 0.5, 5, 5)])
    assert [str(warning.message) for warning in warned] == [
        "Left out, without gaze: film.mkv, varying.mp4.",
        "Not used: gaze of stedy, film.mp4, of which no video was given.",
    ]
    assert list(samples()) == ["steady", "trip.v2"]


@pytest.fixture
def many(clip, tmp_path):
    """Ten videos of 6 frames, and a table with a row for each."""
    (tmp_path / "many").mkdir()
    for number in range(10):
        shutil.copy(clip, tmp_path / "many" / f"clip_{number}.mp4")
    return tmp_path / "many", [(f"clip_{number}", 0.1, 5, 5) for number in range(10)]


def test_a_share_of_the_videos_is_for_validation(make, samples, many):
    folder, rows = many
    chosen = {}
    for out, shuffled, seed in (("a", rows, 0), ("b", rows[::-1], 0), ("c", rows, 1)):
        made = make(shuffled, source=folder, out=out, validation=0.3, seed=seed)
        assert (len(made.videos["train"]), len(made.videos["validation"])) == (7, 3)
        chosen[out] = set(samples("validation", out))
        assert chosen[out] == set(made.videos["validation"])
        assert chosen[out] | set(samples("train", out)) == {f"clip_{number}" for number in range(10)}
    assert chosen["a"] == chosen["b"] != chosen["c"]
    assert make(rows[:1], source=folder / "clip_0.mp4", out="d", split="test").videos == {"test": ["clip_0"]}
    assert list(samples("test", "d")) == ["clip_0"]


TIMES, FRAMES = "video,time,x,y\n", "video,frame,x,y\n"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "gaze.csv has no column video, but is empty"),
        ("video,x,y\n", r"gaze.csv has no column time or start \(seconds\) or frame \(from 0\), but video, x, y"),
        (
            "film,time,x,y\n",
            "gaze.csv has no column video, but film, time, x, y; add a column video with the name of each row's file",
        ),
        (
            "Video;Time;X;Y\nsteady;0,1;5;5\n",
            "line 2, column time: '0,1' is not a number; write decimals",
        ),
        ("video,start,x,y\n", r"gaze.csv has no column duration or end \(seconds\), but video, start, x, y"),
        ("video,time,frame,x,y\n", "has the columns time and frame; leave one"),
        (f"{TIMES}steady,0.1,5,5\nsteady,0.1,left,5\n", "gaze.csv, line 3, column x: 'left' is not a number"),
        (f"{TIMES}steady,0:01,5,5\n", "gaze.csv, line 2, column time: '0:01' is not a number"),
        (f"{FRAMES}steady,1.5,5,5\n", r"gaze.csv, line 2, column frame: 1\.5 is not a whole number"),
        (f"{TIMES}\nsteady,0,1,5,5\n", "gaze.csv, line 3: 5 cells, but the header has 4"),
        (
            f"{TIMES}Film.mkv,0.1,5,5\n",
            "No row of .*gaze.csv is of a video in .*; it has 'Film.mkv', the video is film.mkv: ",
        ),
        (f"{TIMES}steady,0.1,0.5,0.4\nfilm,0.1,1.0,0\n", "at most 1; give pixels, not shares of the frame"),
        (
            f"{TIMES}steady,0.1,0.5,0.4\nsteady,0.1,0.5,0.4\nsteady,0.2,1.07,0.9\n",
            "at most 1; give pixels, not shares",
        ),
        ("video,time,x,y,X\n", "gaze.csv has two columns x; remove or rename one"),
        (
            f"{TIMES}steady,500,5,5\n",
            r"1 of 1 rows of steady.mp4 lie on no frame of it \(1 before or after the video\);.* read as seconds,",
        ),
        (
            "video,time_ms,x,y\nsteady,5000,5,5\n",
            "times, here read as milliseconds, count from",
        ),
        (f"{FRAMES}steady,0,5,5\nsteady,500,5,5\nsteady,501,5,5\n", "frames count from 0"),
        (
            f"{TIMES}steady,0.1,900,500\nsteady,0.1,910,510\nsteady,500,5,5\n",
            r"\(2 outside the frame\).* may be of the screen: .*\(x on the screen - left edge of the video\) \*",
        ),
    ],
)
@no_gaze
def test_tables_that_do_not_fit(videos, tmp_path, table, message):
    (tmp_path / "gaze.csv").write_text(table)
    before = tree(tmp_path)
    with pytest.raises(DataError, match=message):
        make_gazefolder(videos, tmp_path / "gaze.csv", tmp_path / "out")
    assert tree(tmp_path) == before


def test_tables_that_are_none(videos, tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "latin.csv").write_bytes("video,time,x,y\nVögel,0,1,1\n".encode("latin-1"))
    for name in ("pipe", "latin", "none"):
        with pytest.raises(DataError, match=rf"Cannot read .*{name}\.csv \(.*; give a CSV"):
            make_gazefolder(videos, tmp_path / f"{name}.csv", tmp_path / "out")


@no_gaze
@pytest.mark.parametrize(
    "text",
    [
        '\ufeffy, observer, video, note, x, frame\r\n5, anna, steady.mp4, "blinks, once", 7, 3\r\n\r\n',
        "Video;Frame;X;Y;Observer;Note\nsteady;3;7;5;anna;one, two\n",
        # Who looked at another video does not count.
        "video\tframe\tx\ty\tobserver\nother.mp4\t3\t7\t5\tben\nsteady.mp4\t3\t7\t5\tanna\n",
    ],
)
def test_tables_as_spreadsheets_write_them(videos, tmp_path, samples, text):
    (tmp_path / "gaze.csv").write_text(text, encoding="utf-8", newline="")
    assert make_gazefolder(videos, tmp_path / "gaze.csv", tmp_path / "out").observers == 1
    assert fixated(samples()["steady"]) == {(3, 5, 7)}


EYELINK = """RECORDING_SESSION_LABEL\tVIDEO_NAME\tCURRENT_FIX_START\tCURRENT_FIX_DURATION\tCURRENT_FIX_X\tCURRENT_FIX_Y
anna\tsteady.mp4\t100\t100\t10\t20
ben\tsteady.mp4\t110\t40\t30\t5
ben\tsteady.mp4\t160\t40\t.\t.
"""
# Tobii repeats a fixation for each of its samples, and what is not one has no place.
TOBII = """Recording timestamp [μs]\tParticipant name\tPresented Media name\tEye movement type\t\
Gaze event duration [ms]\t\
Fixation point X [DACS px]\tFixation point X [MCS px]\tFixation point Y [MCS px]
100000\tanna\tC:\\study\\steady.mp4\tFixation\t100\t700\t10\t20
108333\tanna\tC:\\study\\steady.mp4\tFixation\t100\t700\t10\t20
204000\tanna\tC:\\study\\steady.mp4\tSaccade\t30\t\t\t
110000\tben\tC:\\study\\steady.mp4\tFixation\t40\t700\t30\t5
"""
OWN = "clip;onset_ms;duration (ms);x;y;who\nsteady;100;100;10;20;anna\nsteady;110;40;30;5;ben\n"


@no_gaze
@pytest.mark.parametrize(
    ("text", "encoding", "options"),
    [
        (EYELINK, "utf-8", {}),
        (TOBII, "utf-16", {}),
        (OWN, "utf-8", {"columns": {"video": "clip", "observer": "who"}}),
        (OWN.replace("_ms", "").replace(" (ms)", ""), "utf-8", {"columns": {"video": "clip", "observer": "who"},
                                                               "time_unit": "ms"}),
    ],
)  # fmt: skip
def test_tables_as_eye_trackers_export_them(videos, tmp_path, samples, text, encoding, options):
    (tmp_path / "gaze.csv").write_text(text, encoding=encoding)
    made = make_gazefolder(videos, tmp_path / "gaze.csv", tmp_path / "out", **options)
    assert (made.fixations, made.observers) == (4, 2)
    sample = samples()["steady"]
    assert fixated(sample) == {(3, 20, 10), (4, 20, 10), (5, 20, 10), (4, 5, 30)}
    assert sample.observers(4).tolist() == [0, 1]


@no_gaze
@pytest.mark.parametrize(
    ("header", "scale", "options"),
    [
        ("start [ms],duration", (1e3, 1e3), {}),
        ("start,duration_ms", (1e3, 1e3), {}),
        ("onset_us,offset", (1e6, 1e6), {}),
        ("Start,End [milliseconds]", (1e3, 1e3), {}),
        ("timestamp [ns],duration", (1e9, 1e9), {}),
        ("Recording timestamp,duration", (1e3, 1e3), {}),
        ("CURRENT_FIX_START,CURRENT_FIX_END", (1e3, 1e3), {}),
        ("begin (ms),length", (1e3, 1e3), {"columns": {"start": "begin (ms)", "duration": "length"}}),
        ("t0,t1_ms", (1e3, 1e3), {"columns": {"start": "t0", "end": "t1_ms"}}),
        ("start,end", (1, 1), {}),
        ("start_s,duration_ms", (1, 1e3), {}),
        ("start_s,duration", (1, 1e3), {"time_unit": "ms"}),
        ("Recording timestamp [us],Gaze event duration", (1e6, 1e3), {}),
    ],
)
def test_a_unit_that_one_of_two_times_names_is_the_unit_of_both(make, samples, header, scale, options):
    columns = tuple(header.split(","))
    until_end = any(word in columns[1].lower() for word in ("end", "offset", "t1"))
    rows = [
        ("steady", begin * scale[0], (length + begin * until_end) * scale[1], x, 5, "anna")
        for begin, length, x in ((0.1, 0.1, 10), (0.21, 0.04, 30))
    ]
    make(rows, ("video", *columns, "x", "y", "observer"), **options)
    assert fixated(samples()["steady"]) == {(3, 5, 10), (4, 5, 10), (5, 5, 10), (7, 5, 30)}


def test_an_observer_in_several_places_at_once_is_warned_of(make, videos, recwarn):
    """Samples, and several people without names, may well be in several places of a frame."""
    header = ("video", "start", "duration_s", "x", "y", "observer")
    rows = [("steady", 0.1 * number, 100, 5 + number, 5, "anna") for number in range(9)]
    run = partial(make, source=videos / "steady.mp4")
    run([(*row[:2], 0.1, *row[3:]) for row in rows], header)
    run([(*row[:3], 5, 5, "anna") for row in rows], header, out="one place")
    run([row[:5] for row in rows], header[:5], out="nameless")
    run([(*row[:5], f"{row[1]}") for row in rows], header, out="many")
    run([(*row[:2], *row[3:]) for row in rows * 9], ("video", "time", "x", "y", "observer"), out="moments")
    assert [str(warning.message) for warning in recwarn] == []
    with pytest.warns(UserWarning, match="In 27 of 30 frames with fixations an observer of .*gaze.csv is in several"):
        run(rows, header, out="wrong")


@no_gaze
def test_the_names_of_observers_are_kept(make, samples, tmp_path):
    rows = [("other", 0.1, 5, 5, "zoe"), ("steady", 0.1, 5, 5, "ben, B."), ("film", 0.1, 7, 7, "anna")]
    with pytest.warns(UserWarning, match="gaze of other"):
        make([*rows, ("film", 0.1, 9, 9, "")], ("video", "time", "x", "y", "observer"))
    assert (tmp_path / "out" / "observers.csv").read_bytes() == b'observer,name\r\n1,"ben, B."\r\n2,anna\r\n'
    assert np.argwhere(samples()["film"].fixations(2, observers=[2])).tolist() == [[7, 7]]
    assert "observers.csv" not in str(GazeFolder.check(tmp_path / "out", decode=True))
    export_dataset({"train": load_gazefolder(tmp_path / "out")}, tmp_path / "shards", "gazefolder")
    assert len(load_export(tmp_path / "shards")) == 2


def test_a_table_of_one_video_needs_no_column_video(make, samples, videos):
    make([(0.1, 5, 6), (0.5, 7, 8)], ("time", "x", "y"), source=videos / "steady.mp4")
    assert fixated(samples()["steady"]) == {(3, 6, 5), (15, 8, 7)}


@no_gaze
def test_a_clock_that_does_not_begin_with_the_video(videos, tmp_path, samples):
    """Nearly all of the gaze would be lost, which is refused; the first row may tell when a video began."""
    rows = [("steady", 70 + begin, 0.05, 5, 5, "anna") for begin in (0, 0.1, 0.5, 0.9)]
    write_table(tmp_path / "gaze.csv", rows, ("video", "start", "duration", "x", "y", "observer"))
    with pytest.raises(DataError, match=r"4 of 4 rows of steady\.mp4 lie on no frame.*--from-first-row"):
        make_gazefolder(videos, tmp_path / "gaze.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    make_gazefolder(videos, tmp_path / "gaze.csv", tmp_path / "out", from_first_row=True)
    assert fixated(samples()["steady"]) == {(frame, 5, 5) for frame in (0, 1, 3, 4, 15, 16, 27, 28)}


def test_videos_that_do_not_fit(make, videos, tmp_path):
    rows = [("steady", 0.1, 5, 5), ("film", 0.1, 5, 5)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no videos"):
        make(rows, source=tmp_path / "empty")
    shutil.copy(videos / "film.mkv", videos / "steady.mkv")
    with pytest.raises(DataError, match=r"steady\.mkv and steady\.mp4 have the same name"):
        make(rows)
    (videos / "steady.mkv").unlink()
    (videos / "film.mkv").write_bytes(b"none")
    with pytest.raises(VideoError, match=r"film\.mkv"):
        make(rows)
    assert not (tmp_path / "out").exists()


@no_gaze
def test_an_earlier_folder_is_replaced_only_when_asked(make, samples, tmp_path):
    make([("film", 0.1, 5, 5)])
    with pytest.raises(VideoError, match="out exists already"):
        make([("steady", 0.1, 5, 5)])
    with pytest.raises(DataError, match="on no frame"):
        make([("steady", 100, 5, 5)], overwrite=True)
    assert list(samples()) == ["film"]
    make([("steady", 0.1, 5, 5)], overwrite=True)
    assert list(samples()) == ["steady"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gaze.csv", "out", "videos"]


def test_the_command_says_what_it_wrote_and_what_comes_next(salfom_data, videos, tmp_path):
    rows = [("steady", 0.1, 5, 5), ("film", 0.1, 5, 5), ("film", 0.1, 5, 500), ("walk", 0.1, 5, 5)]
    write_table(tmp_path / "gaze.csv", rows)
    code, said = salfom_data("make", "videos", "gaze.csv", "my gaze")
    assert code == 0
    assert said.out == (
        "videos -> my gaze: 2 videos (train 1, validation 1), 2 rows, 2 fixated places in 42 frames; "
        "1 row dropped (1 outside the frame).\n"
        "Look at it: salfom data show gazefolder 'my gaze'\n"
    )
    assert said.err == (
        "salfom: Left out, without gaze: varying.mp4.\nsalfom: Not used: gaze of walk, of which no video was given.\n"
        "salfom: Of gaze.csv, 1 row outside the frame: x and y may be pixels of the screen, or of another size of "
        "the video; look at salfom data show.\n"
    )
    assert salfom_data("show", "gazefolder", "my gaze")[0] == 0
    assert (tmp_path / "gazefolder_train.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sigma", "-1"], "Sigma is a number of pixels above 0, not -1.0"),
        (["--validation", "1.5"], "not 1.5 of train"),
        (["--validation", "0.2", "--split", "test"], "not 0.2 of test"),
        (["--split", "dev"], "invalid choice"),
        (["--seed", "-1"], "-1 is not a whole number"),
        (["--columns", "video"], "video is not OURS=THEIRS"),
        (["--columns", "film=x"], "no column 'film' to name"),
        (["--columns", "video=film"], "gaze.csv has no column film, but video, time, x, y"),
        (["--columns", "observer=who"], "gaze.csv has no column who, but video, time, x, y"),
        (["--time-unit", "h"], "invalid choice"),
        ([], "gaze.csv, line 2, column y"),
    ],
)
def test_what_the_command_cannot_do_is_said_in_a_line(salfom_data, videos, tmp_path, arguments, message):
    write_table(tmp_path / "gaze.csv", [("steady", 0.1, 5, "five")])
    code, said = salfom_data("make", "videos", "gaze.csv", "out", *arguments)
    assert code == 2
    assert message in said.err
    assert "Traceback" not in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gaze.csv", "videos"]
