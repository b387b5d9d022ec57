"""What all tests share: no example of hypothesis has a deadline, for a slow machine is not a fault."""

from hypothesis import settings

settings.register_profile("zpipe", deadline=None)
settings.load_profile("zpipe")
