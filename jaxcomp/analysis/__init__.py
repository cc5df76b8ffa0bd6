"""Results of many runs: tables, statistics, verdict, comparisons, figures and pages."""
