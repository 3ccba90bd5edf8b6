"""The command line: `forethought run | status | plan | … | evaluate …`."""
