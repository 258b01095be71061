"""The Control API: agents are enrolled, told what to do by signed jobs, and say how they are and what came of it."""
