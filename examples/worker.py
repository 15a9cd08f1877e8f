"""worker.py: one smolvlm --jsonl process as an object; a process that dies is replaced, and its request asked again."""
import json
import subprocess


class Worker:
    def __init__(self, smolvlm, model, *options):
        self.command = [smolvlm, model, "--jsonl", "-q", *options]
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None

    def ask(self, request, tries=3):
        """The answer to a request, a dict as docs/BATCH.md has it."""
        line = json.dumps(request).encode() + b"\n"
        for _ in range(tries):
            if self.process is None or self.process.poll() is not None:
                self.start()
            try:
                self.process.stdin.write(line)
                self.process.stdin.flush()
                answer = self.process.stdout.readline()
            except BrokenPipeError:
                answer = b""
            if answer.endswith(b"\n"):
                return json.loads(answer)
            self.close()                                    # it died in the middle
        return {"id": request.get("id"), "error": f"{tries} processes died of this request"}
