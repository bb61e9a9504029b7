def fill(command, task, shell=False): return list(command)
