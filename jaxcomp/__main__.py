"""`python -m jaxcomp` is the command `jaxcomp`."""

from jaxcomp.cli.main import main

raise SystemExit(main())
