"""From JSON lines to a report: Markdown, PNG and one HTML file. Everything here can be done again from the lines alone."""
