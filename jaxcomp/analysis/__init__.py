"""Many results: tables, statistics, the verdict, comparisons, figures and pages."""
