"""Jobs of the timetable: one file each; a job is called with the fencing token."""
