"""`workforce.run` without processes, which take seconds to start: one job after the other, failures as outcomes."""

from data_prep.workforce import Outcome


def run(work, jobs, **_):
    for job in jobs:
        try:
            yield Outcome(job, work(job), None, 0.0)
        except (ValueError, OSError) as error:
            yield Outcome(job, None, str(error), 0.0, getattr(error, "kind", "broken"))
