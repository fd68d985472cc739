from ptheta.cli import main

raise SystemExit(main())
