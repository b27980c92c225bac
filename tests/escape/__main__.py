from __future__ import annotations

import sys

from tests.escape.suite import main

sys.exit(main())
