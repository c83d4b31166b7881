"""What must be said above all else: trouble, a runner that died, a study with nothing in it."""

from textual.content import Content

from studyctl_tui.shared.view import View


def banner(view: View) -> Content:
    """Return what there is to say, a line each; empty when all is well."""
    return Content("\n").join(filter(None, [_trouble(view), _runner(view) or _empty(view)]))


def _trouble(view: View) -> Content | None:
    if view.trouble is None:
        return None
    told = [f"! {one.what}" + (f"\n  {one.hint}" if one.hint else "") for one in view.trouble.problems]
    return Content("\n".join(told))


def _runner(view: View) -> Content | None:
    runner = view.snapshot.runner
    if runner is None or view.snapshot.running:
        return None
    last = f"{runner.heartbeat:%Y-%m-%d %H:%M:%S} UTC"
    return Content(
        f"✗ the runner died (process {runner.pid} on {runner.host}); last sign of life {last}\n  R goes on where it ended"
    )


def _empty(view: View) -> Content | None:
    trials = view.snapshot.trials
    if not trials:
        return None if view.trouble else Content("this study has no trials yet: 4 opens its spec")
    if not view.snapshot.running and all(trial.state == "pending" for trial in trials):
        return Content("nothing was measured yet: R starts the run")
    return None
