_base_ = '../../_base_/reconstruction/celeba_218x178.py'
model = dict(attention=dict(form='coupling', mode='embedded_gaussian'))
