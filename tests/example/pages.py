"""What the tests of the pages have in common: what a person sees of a conversation."""

try:
    from playwright.sync_api import expect
except ImportError:
    expect = None

WAIT = 30_000
"""How long a page may take for what it is waited for on a slow machine (ms)."""

if expect is not None:
    expect.set_options(timeout=WAIT)


def lines(page):
    """The sentences on the page, without their numbers."""
    return page.locator(".line").evaluate_all("nodes => nodes.map(node => node.lastChild.data)")


def state(page):
    return page.locator("#state")


def wait_for_lines(page, count):
    expect(page.locator(".line").nth(count - 1)).to_be_attached(timeout=15_000)


def finished(page):
    expect(state(page)).to_have_text("Finished")


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def frames(*events):
    """The body of a stream: pairs of an event's type and its data."""
    return "retry: 1000\n" + "".join(
        f"id: 1-{n}\nevent: {type}\ndata: {data}\n\n" for n, (type, data) in enumerate(events, 1)
    )
