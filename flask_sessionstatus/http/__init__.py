"""The routes: API.md's contract over the sessions, tasks and streams below."""
