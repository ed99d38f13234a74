"""What a pool's rules come to for its members: caps, and the calendars of maintenance. What is judged on the way is judged in Lua."""
