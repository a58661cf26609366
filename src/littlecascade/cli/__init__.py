"""The command line: it parses, calls the layers below and shows what they return."""
