"""Reads the pages of `taskvec report` and `taskvec compare` with parsers that are not ours, and in Chromium.

    python3 tests/python/check_report.py TASKVEC [SCREENSHOTS]

Makes the demo's merges, draws their pages, and checks: well-formed, nothing from outside, a row for every layer and tensor,
headings in order, every picture with a name. With a Chromium (`CHROMIUM`, or on the PATH): no message on the console, the
page's own style in the light and in the dark, nothing wider than the window. Without one it says so and goes on.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"


def check(ok, what):
    if not ok:
        sys.exit(f"check_report: {what}")


def run(*command, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    check(done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check_page(path, record):
    root = ET.fromstring(path.read_text())  # The pages are XML too.
    for element in root.iter():
        check(element.tag not in ("script", "link", "img", "iframe", "object", "base"), f"{path}: <{element.tag}>")
        for name, value in element.attrib.items():
            check(not name.lower().startswith("on") and name not in ("src", "style"), f"{path}: {name}={value!r}")
            check(name != "href" or value.startswith("#"), f"{path}: href={value!r}")
    check("://" not in re.sub(r'xmlns="[^"]*"', "", path.read_text()), f"{path}: an address")
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    check(len(ids) == len(set(ids)), f"{path}: an id twice")
    check(all(a.get("href")[1:] in ids for a in root.iter("a")), f"{path}: a link to nowhere")
    levels = [int(e.tag[1]) for e in root.iter() if re.fullmatch("h[1-6]", e.tag)]
    check(levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:])), f"{path}: headings {levels}")
    for picture in root.iter(SVG + "svg"):
        check(picture.get("role") == "img" and picture[0].tag == SVG + "title" and picture[0].text, f"{path}: a picture without a name")
    for table in root.iter("table"):
        check(table[0].tag == "caption" and table[0].text, f"{path}: a table without a caption")
        check(all(c.get("scope") for c in table.iter("th")), f"{path}: a heading cell without scope")
    rows = {r[0].text for r in root.iter("tr")}
    names = [x["name"] for x in record["layers"] + record["tensors"]]
    check(all(n in rows for n in names), f"{path}: no row for {[n for n in names if n not in rows][:3]}")


def chromium():
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "chromium-headless-shell", "google-chrome"]
    return next((shutil.which(n) for n in names if n and shutil.which(n)), None)


class Browser:
    def __init__(self, program, profile):
        scheme = {"light": "1", "dark": "0"}
        self.flags = lambda how: [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
            "--enable-logging=stderr", f"--blink-settings=preferredColorScheme={scheme[how]}",
        ]

    def look(self, page, how, image, height):
        command = [*self.flags(how), f"--window-size=1200,{height}", f"--screenshot={image}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        check(Path(image).exists(), f"no screenshot of {page}: {done.stderr}")
        return [l for l in done.stderr.splitlines() if "CONSOLE" in l]


def background(png):
    """The first pixel of an 8-bit RGB or RGBA picture."""
    import struct
    import zlib

    data, at, packed = Path(png).read_bytes(), 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    row = zlib.decompressobj().decompress(packed, 4)
    return tuple(row[1:4])  # The first pixel of the first row is the same under every filter.


def look(pages, folder, program):
    browser = Browser(program, folder / "profile")
    loud = folder / "loud.html"
    loud.write_text("<script>console.error('seen')</script>")
    check(browser.look(loud, "light", folder / "loud.png", 300), "this Chromium does not tell what is on the console")
    for page in pages:
        for how, paper in (("light", (255, 255, 255)), ("dark", (20, 23, 28))):
            image = folder / f"{page.stem}-{how}.png"
            said = browser.look(page, how, image, 2400)
            check(not said, f"{page}: the console says {said}")
            check(background(image) == paper, f"{page}: {how} paper is {background(image)}, expected {paper}")
        print(f"{page.name}: {how} and light in {Path(program).name}, console silent")


def main():
    taskvec = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else Path(work) / "shots"
        folder.mkdir(exist_ok=True)
        demo = Path(work) / "demo"
        run(taskvec, "demo", demo, "--quiet")
        outputs = sorted(p for p in (demo / "merged").iterdir() if (p / "taskvec.json").exists())
        pages = []
        for out in outputs:
            page = folder / (re.sub(r"\W+", "-", out.name) + ".html")
            run(taskvec, "report", out, "--html", page, "--inputs", "--quiet")
            check_page(page, json.loads((out / "taskvec.json").read_text()))
            pages.append(page)
        experts = sorted((demo / "experts").iterdir())
        page = folder / "compare.html"
        found = json.loads(run(taskvec, "compare", demo / "base", *experts, "--json", "--html", page, "--quiet"))
        check_page(page, {"layers": [], "tensors": found["tensors"]})
        print(f"{len(pages)} reports and a comparison: well-formed, complete, nothing from outside")
        program = chromium()
        if program is None:
            print("check_report: SKIPPED the look in a browser: no Chromium on this machine", file=sys.stderr)
            return
        look([pages[0], pages[1], page], folder, program)


main()
