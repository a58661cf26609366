"""`python -m littlecascade` is the command `littlecascade`."""

from littlecascade.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
