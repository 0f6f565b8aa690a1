"""Rasters come from strangers: opening one must not reach out to anybody."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from osgeo import gdal

from data_prep import errors, rasters

VRT = """<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename relativeToVRT="0">{}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""
ENDPOINTS = {
    "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_NO_SIGN_REQUEST": "YES",
    "AWS_S3_ENDPOINT": "{host}", "GS_NO_SIGN_REQUEST": "YES", "CPL_GS_ENDPOINT": "http://{host}/",
    "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;AccountName=a;"
    "AccountKey=AAAA;BlobEndpoint=http://{host}/",
    "OSS_ENDPOINT": "{host}", "OSS_HTTPS": "NO", "OSS_VIRTUAL_HOSTING": "FALSE",
    "OSS_ACCESS_KEY_ID": "x", "OSS_SECRET_ACCESS_KEY": "y",
    "SWIFT_STORAGE_URL": "http://{host}", "SWIFT_AUTH_TOKEN": "t",
}  # fmt: skip
SOURCES = (
    *("/vsicurl/http://{host}/a.tif", "/vsicurl_streaming/http://{host}/a.tif"),
    *("/vsicurl?url=http%3A%2F%2F{host}%2Fa.tif", "/vsis3/b/a.tif", "/vsigs/b/a.tif"),
    *("/vsiaz/b/a.tif", "/vsioss/b/a.tif", "/vsiswift/b/a.tif", "/vsiwebhdfs/http://{host}/a.tif"),
    *("http://{host}/a.tif", "WMS:http://{host}/?service=WMS", "WMTS:http://{host}/x"),
    *("WCS:http://{host}/", "NETCDF:http://{host}/a.nc", "OGCAPI:http://{host}/"),
    *("/vsizip//vsicurl/http://{host}/a.zip/a.tif", 'ZARR:"/vsicurl/http://{host}/a.zarr"'),
)


@pytest.fixture(scope="module")
def server():
    """A server that remembers what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PROPFIND = answer  # noqa: N815, the protocol's names

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{running.server_port}"
        before = {k: gdal.GetConfigOption(k) for k in ENDPOINTS}
        for key, value in ENDPOINTS.items():
            gdal.SetConfigOption(key, value.format(host=host))
        yield host, asked
        for key, value in before.items():
            gdal.SetConfigOption(key, value)
        running.shutdown()


@pytest.mark.parametrize("source", SOURCES)
def test_no_name_and_no_vrt_reaches_out(server, tmp_path, source):
    host, asked = server
    name = source.format(host=host)
    (tmp_path / "inner.vrt").write_text(VRT.format(name))
    (tmp_path / "outer.vrt").write_text(VRT.format(tmp_path / "inner.vrt"))
    for file in (name, str(tmp_path / "inner.vrt"), str(tmp_path / "outer.vrt")):
        with pytest.raises(errors.InputError, match="STFNET_ALLOW_NETWORK=1"):
            rasters.read(file)
    # GDAL itself refuses as well, where a name would slip through.
    if not source.startswith("NETCDF"):
        with pytest.raises(RuntimeError):
            gdal.Open(str(tmp_path / "inner.vrt")).ReadAsArray()
    assert not asked


def test_sub_datasets_and_local_sources_are_no_addresses(tmp_path):
    assert not rasters._on_network('HDF5:"/data/x.h5"://group/band')
    assert not rasters._on_network("HDF4_EOS:EOS_GRID:/data/MOD09GA.hdf:MODIS_Grid_500m_2D:b01")
    (tmp_path / "a.vrt").write_text(VRT.format(tmp_path / "a.tif"))
    assert not rasters._on_network(str(tmp_path / "a.vrt"))


@pytest.mark.parametrize("domain, refused", [("", False), ("OVERVIEWS", True)])
def test_addresses_in_the_metadata_of_a_vrt_are_not_looked_at(tmp_path, domain, refused):
    made = gdal.GetDriverByName("GTiff").Create(str(tmp_path / "a.tif"), 4, 4)
    del made
    vrt = gdal.Translate(str(tmp_path / "a.vrt"), str(tmp_path / "a.tif"), format="VRT")
    key, address = "identifier_product_doi_authority", "http://dx.doi.org"
    for stating in (vrt, vrt.GetRasterBand(1)):
        stating.SetMetadataItem(key, address)
        stating.SetMetadataItem("OVERVIEW_FILE", address, domain)
    del vrt, stating
    assert address in (tmp_path / "a.vrt").read_text()
    assert bool(rasters._on_network(str(tmp_path / "a.vrt"))) == refused


def test_it_is_there_for_who_asks_for_it(server):
    host, asked = server
    command = f"from data_prep import rasters; rasters.info('/vsicurl/http://{host}/there.tif')"
    done = subprocess.run(
        [sys.executable, "-c", command],
        env=os.environ | {"STFNET_ALLOW_NETWORK": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert "/there.tif" in asked
    assert "expected a raster that GDAL" in done.stderr
    asked.clear()


def test_a_vrt_runs_no_python(tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    code = f"def f(*a, **k):\n    open({str(marker)!r}, 'w')\n"
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1" '
        'subClass="VRTDerivedRasterBand"><PixelFunctionLanguage>Python</PixelFunctionLanguage>'
        f"<PixelFunctionType>f</PixelFunctionType><PixelFunctionCode><![CDATA[{code}]]>"
        "</PixelFunctionCode></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(errors.InputError):
        rasters.read(str(tmp_path / "a.vrt"))
    assert not marker.exists()
