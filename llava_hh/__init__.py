"""Hallucination heads of vision-language models: finding them, switching them off, training them."""

import os

STARTED_BY = os.getppid()  # noted before torch is imported, which takes seconds: the launcher may die meanwhile
