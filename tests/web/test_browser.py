"""The page in a real browser: what moves, what is drawn, and what a keyboard reaches."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from kythera.runs.store import Store
from kythera.web.app import make_app

from . import stores

pytestmark = pytest.mark.program("chromium", "google-chrome")

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *(
        "--disable-background-networking",
        "--disable-sync",
        "--disable-component-update",
    ),
]
TOKEN = "0123456789abcdef-token"
WAIT = 60_000  # milliseconds: the machine may be busy


@contextlib.contextmanager
def served(store: Store, **options) -> Iterator[str]:
    """The address of the page of a store, served by a thread."""
    app = make_app(store, **options)
    config = uvicorn.Config(app, port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser(request):
    from playwright.sync_api import sync_playwright

    from ..conftest import _find_program

    with sync_playwright() as playwright:
        program = _find_program(("chromium", "google-chrome"))
        found = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def look(browser):
    """A page of a window of that size and those colours; what it complains of fails."""
    complaints, contexts = [], []

    def call(width: int = 1366, height: int = 800, colours: str = "light"):
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, color_scheme=colours)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text) if "script-src" in said.text else None
            ),
        )
        return page

    yield call
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def address(studied, tmp_path):
    with served(studied) as found:
        yield found


def drawn(page, label: str):
    """The figure of that label, once it is drawn."""
    figure = page.get_by_role("group", name=label, exact=True)
    figure.scroll_into_view_if_needed()
    figure.locator(".js-plotly-plot .main-svg").first.wait_for()
    return figure


def until(page, condition: str) -> None:
    """Wait for an expression; the page's policy forbids Playwright's own way."""
    end = time.monotonic() + WAIT / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def values(figure, key: str) -> list:
    """What plotly draws of each trace."""
    return figure.locator(".plot").evaluate(
        f"(plot) => plot.data.map((trace) => Array.from(trace.{key} ?? []))"
    )


def test_a_live_run_moves(store, toy_result, toy_solution, look):
    """Trials that another thread writes are seen without a reload."""
    study, trials = stores.begin(store, "live", toy_result), toy_solution.trials
    with served(store) as address, study.begin() as run:
        page = look()
        page.goto(f"{address}studies/{study.id}")
        page.get_by_text("has not begun to search").wait_for()
        run.describe(stores.begun(toy_result), limits='{"trials": 24}')
        stores.write(run, trials[:6])
        figure = drawn(page, "Loss")
        page.evaluate("window.kept = document.querySelector('.plot')")
        assert max(max(x, default=0) for x in values(figure, "x")) == trials[5].spent
        page.get_by_text("6 of 24").wait_for()
        page.get_by_text(f"held by {run.holder.rpartition(':')[0]}").wait_for()

        def rest() -> None:
            for one in trials[6:]:
                stores.write(run, [one])
            stores.finish(run, toy_result)

        writer = threading.Thread(target=rest)
        writer.start()
        gain = str(toy_result.gain).replace("+-", "±").replace("-", "−")
        page.locator(".headline").get_by_text(gain, exact=True).wait_for()
        writer.join()
        until(page, "document.querySelector('.plot').data.length >= 4")
        good = [t for t in trials if t.state == "complete"]
        assert len(good) in map(len, values(figure, "x"))
        assert page.evaluate("window.kept === document.querySelector('.plot')")
        page.locator(".pill.finished").wait_for()


def test_the_slider_changes_the_drawing(address, look, toy_result):
    page = look()
    page.goto(f"{address}studies/1")
    figure = drawn(page, "The instrument")
    slider = page.get_by_role("slider", name="Trial")
    count = len(toy_result.trials["number"])
    assert slider.get_attribute("max") == str(count // stores.DRAWN)
    assert slider.get_attribute("aria-valuetext") == "best design"

    def shows(z: float) -> None:
        place = "document.querySelectorAll('.plot')[1].data[0].x[0]"
        until(page, f"Math.abs({place} - {z}) < 1e-5")

    shows(toy_result.best[0])
    slider.focus()
    page.keyboard.press("Home")
    shows(toy_result.trials["values"][0, 0])
    assert slider.get_attribute("aria-valuetext").startswith("0, the start")
    page.keyboard.press("ArrowRight")
    shows(toy_result.trials["values"][stores.DRAWN, 0])
    page.get_by_role("button", name="in space").click()
    figure.locator("canvas").first.wait_for()  # in three dimensions
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Stop").wait_for()
    until(page, "Number(document.getElementById('trial').value) >= 3")


def test_every_part_of_a_study(address, look, toy_result):
    page = look()
    page.goto(f"{address}studies/1")
    for title in ("Loss", "Terms of the loss", "Constraints", "Pareto front"):
        drawn(page, title)
    legend = page.get_by_role("group", name="Pareto front").locator(".legendtext")
    assert "beaten by none" in legend.all_text_contents()
    page.get_by_text("Show the way of each parameter").click()
    drawn(page, "Path of z")
    drawn(page, "Start and best: layout")
    cause = next(iter(toy_result.causes.values()))
    page.get_by_role("cell", name=cause).wait_for()
    page.get_by_role("cell", name="holds").wait_for()
    page.get_by_role("row", name="z 10").get_by_text("0 to 100").wait_for()
    loss = drawn(page, "Loss")
    before = values(loss, "x")
    page.get_by_role("radio", name="seconds").check()
    loss.get_by_text("time of the trials (s)").wait_for()
    assert values(loss, "x") != before
    with page.expect_download() as download:
        page.get_by_role("link", name="Trials (CSV)").click()
    assert download.value.suggested_filename == "first-1.csv"
    page.get_by_text("Which designs are as good").click()
    until(page, "document.querySelector('details pre').textContent.length > 40")


def test_two_runs_are_compared(studied, look, toy_result, toy_solution):
    stores.fill(studied, stores.EVIL, toy_result, toy_solution.trials[:12])
    with served(studied) as address:
        page = look()
        page.goto(address)
        page.get_by_role("checkbox").nth(1).wait_for()  # `all` waits for nobody
        for box in page.get_by_role("checkbox").all():
            box.check()
        page.get_by_role("link", name="Compare 2 runs").click()
        drawn(page, "Loss of the runs")
        table = page.get_by_role("table", name="Runs that are compared")
        assert table.get_by_role("row").count() == 3
        # A name is text, in tables and in plotly's legends, and never markup.
        table.get_by_role("link", name=stores.EVIL).wait_for()
        assert page.locator("main b, .legend b").count() == 0


def test_a_store_that_is_lost_is_said_and_comes_back(studied, look, tmp_path):
    with served(studied) as address:
        page = look()
        page.goto(f"{address}studies/1")
        drawn(page, "Loss")
        studied.close()
        (tmp_path / "runs.db").rename(tmp_path / "away.db")
        banner = page.get_by_role("alert")
        banner.get_by_text("is gone").wait_for()
        assert page.get_by_role("heading", name="first").is_visible()
        (tmp_path / "away.db").rename(tmp_path / "runs.db")
        banner.wait_for(state="hidden", timeout=2 * WAIT)


def test_an_empty_store_and_an_unknown_study(store, look):
    with served(store) as address:
        page = look()
        page.goto(address)
        page.get_by_role("heading", name="No study yet").wait_for()
        assert "kythera optimise telescope --store" in page.locator("pre").inner_text()
        page.goto(f"{address}studies/99")
        page.get_by_text("There is no study 99").wait_for()
        page.get_by_role("link", name="All studies").click()
        page.get_by_role("heading", name="Studies", exact=True).wait_for()


def test_the_token_is_asked_once_and_not_kept_in_the_address(studied, look):
    with served(studied, token=TOKEN) as address:
        page = look()
        page.goto(address)
        page.get_by_label("Token").fill("a wrong one")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("That is not the token").wait_for()
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.get_by_role("link", name="first").click()
        drawn(page, "Loss")
        other = look()
        other.goto(f"{address}?token={TOKEN}")
        other.get_by_role("link", name="first").wait_for()
        assert other.url == address
        assert other.evaluate("document.cookie") == ""


def test_the_owner_shares_and_deletes(studied, look):
    with served(studied, read_only=False) as address:
        page = look()
        page.goto(f"{address}studies/1")
        page.get_by_label("Let this user read it").fill("bob")
        page.get_by_role("button", name="Share", exact=True).click()
        page.get_by_text("bob may read it now").wait_for()
        drawn(page, "Loss")  # plotly would offer an upload
        assert page.get_by_role("button", name="Share").count() == 1
        remove = page.get_by_role("button", name="Delete")
        page.get_by_label("type its name once more").fill("firs")
        assert remove.is_disabled()
        page.get_by_label("type its name once more").fill("first")
        remove.click()
        page.get_by_role("heading", name="No study yet").wait_for()


def test_a_phone_never_scrolls_sideways(studied, look, toy_result):
    """Whatever the length of a name and the number of parameters."""
    wide = stores.wide(toy_result, 12_000)
    study = stores.begin(studied, "x" * 200, wide)
    with study.begin() as run:
        run.describe({**wide.record, "finished": True})
        stores.write(run, [stores.trial(i, 1.0, 12_000) for i in range(3)], drawn=999)
        run.finish("finished", "done")
    with served(studied) as address:
        page = look(360, 740)
        for path in (
            "",
            "studies/1",
            "studies/2",
            "compare?of=1.1&of=2.1",
            "studies/9",
        ):
            page.goto(address + path)
            page.locator("h1").wait_for()
            page.wait_for_load_state("networkidle")
            for place in page.locator(".plot:visible").all():
                place.scroll_into_view_if_needed()
            if path == "studies/2":
                page.get_by_text("200 of 12,000 parameters").wait_for()
                page.get_by_label("Filter by name").fill("PART11.z[9")
                page.get_by_text("11 of 12,000 parameters").wait_for()
                page.get_by_role("cell", name="part11.z[99]").wait_for()
            size = page.evaluate("document.documentElement.scrollWidth")
            assert size == 360, path


def test_the_colours_that_the_reader_prefers(address, look):
    """Also where they change while the page is open."""
    page = look(colours="dark")
    page.goto(f"{address}studies/1")
    figure = drawn(page, "Loss")
    for colours in ("dark", "light"):
        page.emulate_media(color_scheme=colours)
        ink = {"dark": "#e4e8ee", "light": "#1c2128"}[colours]
        until(
            page, f"document.querySelector('.plot')._fullLayout.font.color == '{ink}'"
        )
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (colours == "light")
        lines = figure.locator(".plot").evaluate(
            "(plot) => plot.data.map((trace) => trace.line?.color)"
        )
        assert ("#222222" in lines) == (colours == "light")  # not black on black


def test_a_keyboard_reaches_everything(address, look):
    page = look()
    page.goto(address)
    page.get_by_role("link", name="first").wait_for()
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "() => { const e = document.activeElement;"
                " const style = getComputedStyle(e);"
                " return [e.textContent || e.getAttribute('aria-label'),"
                " style.outlineStyle !== 'none' && style.outlineWidth] }"
            )
        )
        if seen[-1][0] == "first":
            break
    assert [text for text, _ in seen] == [
        "Skip to the content",
        "kythera",
        "Compare run 1 of first",
        "first",
    ]
    assert all(outline == "2px" for _, outline in seen)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="first").wait_for()
    drawn(page, "Loss")
    page.get_by_role("radio", name="events").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("time of the trials (s)").first.wait_for()
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    drawn(page, "Path of z")
    page.keyboard.press("Home")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    named = page.evaluate(
        "() => [...document.querySelectorAll('input, select, button, a[href], summary')]"
        ".filter((e) => e.checkVisibility()).every((e) => e.labels?.length"
        " || e.textContent.trim() || e.getAttribute('aria-label'))"
    )
    assert named
