"""What all tests share: no example of hypothesis has a deadline, for a slow machine is not a fault."""

from hypothesis import Phase, settings

settings.register_profile("zpipe", deadline=None)
settings.register_profile("mutation", deadline=None, database=None, phases=[Phase.generate])  # a failure is enough
settings.load_profile("zpipe")
