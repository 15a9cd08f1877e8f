"""serve.py: an OpenAI-compatible server on smolvlm: /v1/chat/completions, /v1/models, /health.

    python examples/serve.py MODEL [--port 8000] [--workers 2] [--smolvlm ./smolvlm]

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="smolvlm", messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}},
        {"type": "text", "text": "What is this?"}]}])

Pictures come as data URLs; none are fetched. response_format (json_object, json_schema), stream, logprobs, stop, seed,
temperature (0 unless given), top_p, max_tokens are taken; what is not done is refused with a 400 that names it. Each
worker is a smolvlm --jsonl process. One that dies is replaced and its request asked again; one whose client hangs up,
or that takes too long, is ended and replaced. It listens on 127.0.0.1 alone and knows no users: put what does in front.
Needs fastapi and uvicorn."""
import argparse
import asyncio
import contextlib
import json
import os
import time
import uuid

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

LINE = 1 << 28                                              # the longest line that a worker may write


class Refused(Exception):
    """An answer with an error: its HTTP status and a sentence."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status, self.message = status, message


class Died(Exception):
    pass


class Worker:
    def __init__(self, command):
        self.command, self.process = command, None

    async def lines(self, request):
        """The lines that a request gives, the answer last."""
        if self.process is None or self.process.returncode is not None:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE)
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            await self.process.stdin.drain()
            while True:
                line = await self.process.stdout.readline()
                if not line.endswith(b"\n"):
                    raise Died
                answer = json.loads(line)
                yield answer
                if "delta" not in answer:
                    return
        except (BrokenPipeError, ConnectionResetError):
            raise Died from None

    async def end(self):
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Pool:
    """Workers that are free, and how many requests wait for one."""

    def __init__(self, command, workers, queue, seconds):
        self.free = asyncio.Queue()
        self.all = [Worker(command) for _ in range(workers)]
        for worker in self.all:
            self.free.put_nowait(worker)
        self.busy, self.most, self.seconds = 0, workers + queue, seconds

    async def lines(self, request):
        """As Worker.lines, by whichever is free. The worker is ended unless its last line was read."""
        if self.busy >= self.most:
            raise Refused(503, "too many requests are waiting; try again later")
        self.busy += 1
        worker, finished, begun, end = None, False, False, time.monotonic() + self.seconds
        try:
            worker = await asyncio.wait_for(self.free.get(), self.seconds)
            for attempt in range(3):
                try:
                    lines = worker.lines(request)
                    while not finished:
                        answer = await asyncio.wait_for(anext(lines), end - time.monotonic())
                        begun, finished = True, "delta" not in answer
                        yield answer
                    return
                except Died:
                    await worker.end()
                    if begun or attempt == 2:
                        raise Refused(500, "the worker died") from None
        except TimeoutError:
            raise Refused(504, f"no answer within {self.seconds} seconds") from None
        finally:
            self.busy -= 1
            if worker is not None:
                if not finished:
                    await asyncio.shield(worker.end())
                self.free.put_nowait(worker)


def picture(url):
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma or not head.endswith(";base64"):
        raise Refused(400, "image_url: only data URLs in base64 are taken (data:image/png;base64,...)")
    return {"type": "image", "base64": data}


def content(part):
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str):
            return picture(url)
    raise Refused(400, "messages: a content's part must be a text or an image_url")


def message(m):
    if not isinstance(m, dict) or not isinstance(m.get("role"), str):
        raise Refused(400, "messages: each needs a role")
    role = "system" if m["role"] == "developer" else m["role"]
    if isinstance(m.get("content"), str):
        return {"role": role, "content": m["content"]}
    if isinstance(m.get("content"), list):
        return {"role": role, "content": [content(part) for part in m["content"]]}
    raise Refused(400, "messages: a content must be a string or a list")


SAME = {"temperature": "temperature", "top_p": "top_p", "seed": "seed", "stop": "stop", "max_tokens": "max_tokens",
        "max_completion_tokens": "max_tokens"}
WITHOUT_EFFECT = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0, "tool_choice": "none", "logit_bias": {},
                  "parallel_tool_calls": True, "tools": [], "store": False, "service_tier": "auto"}
IGNORED = {"model", "user", "metadata", "stream_options", "safety_identifier", "prompt_cache_key"}


def translated(body):
    """An OpenAI request as one of --jsonl's."""
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
        raise Refused(400, "messages: a list of messages is needed")
    request = {"id": 1, "messages": [message(m) for m in body["messages"]]}
    for key, value in body.items():
        if value is None or key in IGNORED or key == "messages":
            continue
        if key in SAME:
            request[SAME[key]] = value
        elif key == "stream":
            request["stream"] = value
        elif key == "logprobs":
            if value:
                request["logprobs"] = body.get("top_logprobs") or 0
                request["logprobs"] = max(1, request["logprobs"]) if isinstance(request["logprobs"], int) else 1
        elif key == "top_logprobs":
            if value and not body.get("logprobs"):
                raise Refused(400, "top_logprobs: needs logprobs")
        elif key == "response_format":
            kind = value.get("type") if isinstance(value, dict) else None
            if kind == "json_schema" and isinstance(value.get("json_schema"), dict):
                request["schema"] = value["json_schema"].get("schema", {})
            elif kind == "json_object":
                request["json_output"] = True
            elif kind != "text":
                raise Refused(400, "response_format: must be text, json_object or json_schema")
        elif key not in WITHOUT_EFFECT or value != WITHOUT_EFFECT[key]:
            raise Refused(400, f"{key}: is not done here")
    return request


def logprobs(answer, top):
    if "logprobs" not in answer:
        return None

    def one(t):
        return {"token": t["token"], "logprob": t["logprob"], "bytes": list(t["token"].encode())}

    return {"content": [dict(one(t), top_logprobs=[one(x) for x in t["top"][:top]]) for t in answer["logprobs"]],
            "refusal": None}


def make_app(args):
    name = os.path.basename(args.model)
    command = [args.smolvlm, args.model, "--jsonl", "-q", "-j", str(args.threads)]
    pools = []

    @contextlib.asynccontextmanager
    async def life(app):
        pools.append(Pool(command, args.workers, args.queue, args.timeout))
        yield
        for worker in pools.pop().all:
            await worker.end()

    app = FastAPI(lifespan=life, openapi_url=None)

    @app.exception_handler(Refused)
    async def refused(_, e):
        kind = "invalid_request_error" if e.status < 500 else "server_error"
        return JSONResponse({"error": {"message": e.message, "type": kind, "param": None, "code": None}}, e.status)

    async def read_body(http):
        data = b""
        async for piece in http.stream():
            data += piece
            if len(data) > args.max_body << 20:
                raise Refused(413, f"the request has more than {args.max_body} MiB")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as e:
            raise Refused(400, f"the request is no JSON: {e}") from None

    @app.get("/health")
    async def health():
        return {"status": "ok", "busy": pools[0].busy, "workers": args.workers}

    @app.get("/v1/models")
    async def models():
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "smolvlm"}]}

    @app.post("/v1/chat/completions")
    async def completions(http: Request):
        body = await read_body(http)
        request = translated(body)
        common = {"id": "chatcmpl-" + uuid.uuid4().hex, "created": int(time.time()), "model": name}
        lines = pools[0].lines(request)
        top = body.get("top_logprobs") or 0
        if not request.get("stream"):
            answering = asyncio.ensure_future(anext(lines))
            try:
                while not (await asyncio.wait([answering], timeout=0.2))[0]:
                    if await http.is_disconnected():
                        raise Refused(499, "the client hung up")
                answer = answering.result()
            finally:
                if not answering.done():
                    answering.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Refused):
                        await answering
                await lines.aclose()
            if "error" in answer:
                raise Refused(400, answer["error"])
            choice = {"index": 0, "message": {"role": "assistant", "content": answer["text"], "refusal": None},
                      "finish_reason": answer["finish_reason"], "logprobs": logprobs(answer, top)}
            usage = {k: answer["usage"][k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")}
            return dict(common, object="chat.completion", choices=[choice], usage=usage)

        first = await anext(lines)                          # what is wrong with the request is told before the stream
        if "error" in first:
            await lines.aclose()
            raise Refused(400, first["error"])

        def chunk(delta, reason=None, logs=None):
            choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": logs}
            return "data: " + json.dumps(dict(common, object="chat.completion.chunk", choices=[choice])) + "\n\n"

        async def events():
            try:
                yield chunk({"role": "assistant", "content": ""})
                answer = first
                while "delta" in answer:
                    yield chunk({"content": answer["delta"]})
                    answer = await anext(lines)
                yield chunk({}, answer.get("finish_reason", "stop"), logprobs(answer, top))
                yield "data: [DONE]\n\n"
            except Refused as e:
                yield "data: " + json.dumps({"error": {"message": e.message, "type": "server_error"}}) + "\n\n"
            finally:
                await lines.aclose()

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--smolvlm", default="./smolvlm")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--queue", type=int, default=64, help="requests that may wait")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a request, its waiting included")
    parser.add_argument("--max-body", type=int, default=32, help="MiB of a request")
    args = parser.parse_args()
    uvicorn.run(make_app(args), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
