"""`python -m unsilent`, the same as `unsilent`."""

from unsilent.cli.main import main

main()
