"""`python -m jaxcomp` is the command `jaxcomp`."""

from jaxcomp.cli import main

raise SystemExit(main())
