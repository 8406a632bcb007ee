"""A FastAPI application under uvicorn, whose TLS follows the agent: `python main.py`."""

import os

import uvicorn
from crank_tls import context_factory
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def hello():
    return {"hello": "mesh"}


if __name__ == "__main__":
    uvicorn.run(
        "main:app",
        host=os.environ.get("HOST", "0.0.0.0"),
        port=8443,
        workers=int(os.environ.get("WORKERS", "1")),
        ssl_context_factory=context_factory,
        # Longer than clients keep idle connections.
        timeout_keep_alive=75,
    )
