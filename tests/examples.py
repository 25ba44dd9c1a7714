"""How many examples hypothesis makes, in every test that it makes them for."""

import os

from hypothesis import HealthCheck, settings


def many(few: int) -> settings:
    """Settings for so many, or as many as FUZZ_EXAMPLES says."""
    count = int(os.environ.get("FUZZ_EXAMPLES", few))
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
