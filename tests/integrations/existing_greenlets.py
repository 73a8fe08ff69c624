"""Another program's sessions in a process that gevent has patched: `existing_greenlets.py <redis url>`."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

import gevent  # noqa: E402
from existing import Following, Program, Viewer  # noqa: E402

FOLLOWERS = 200


def main() -> None:
    program, viewer = Program(sys.argv[1]), Viewer(sys.argv[1])
    program.fill(5000)
    with gevent.Timeout(20):
        viewer.until(lambda: viewer.conversation("nobody", "active-session").status_code == 404)
        assert len(viewer.index) == 5000
        for number in range(20):
            program.start(f"new-{number}", "r:1")
            conversation = f"new-{number}"
            wait = viewer.until(lambda conversation=conversation: viewer.index.sessions(conversation))
            assert wait < 1, wait
        following = [Following(viewer.resume("new-0", "r:1")) for _ in range(FOLLOWERS)]
        for each in following:
            each.wait_for("event: start")
        program.chunk("new-0", "r:1", "Hello")
        for each in following:
            each.wait_for("Hello", 1)
        assert viewer.conversation("new-0", "stop", "POST").status_code == 202
        program.end("new-0", "r:1", "cancelled")
        for each in following:
            assert [frame["event"] for frame in each.finish()] == ["start", "chunk", "end"]
        viewer.close()
    program.close()


main()
