"""`python -m sentinode`, the command; accelerate launches modules, so `accelerate launch -m sentinode train ...`."""

from sentinode.apps.cli import main

main()
